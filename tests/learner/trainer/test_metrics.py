"""What an update is measured by, on numbers worked by hand."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from lamer.learner.trainer.loss import PolicyLoss
from lamer.learner.trainer.metrics import TokenMeter, trial_metrics
from tests.learner.builders import completion, reflection, trial, turn

NO_LIMIT = torch.zeros(5, dtype=torch.bool)
LOSS = PolicyLoss(torch.ones(5), NO_LIMIT, NO_LIMIT, NO_LIMIT)


def measured(ratios: list[float], ages: list[int], max_staleness: int) -> dict[str, float]:
    """The figures of tokens with pi_prox / pi_behave as given."""
    meter = TokenMeter(max_staleness)
    meter.add(LOSS, torch.ones(5))
    behaviour = torch.full((len(ratios),), -1.0)
    meter.compare(behaviour + torch.tensor(ratios).log(), behaviour, torch.tensor(ages))
    return {metric.name: metric.value for metric in meter.metrics()}


def test_tokens_are_measured_by_their_age() -> None:
    """Weights 1, 3 of age 1: (1 + 3)^2 / (2 (1 + 9)) = 0.8, and a mean gap of ln(3) / 2."""
    found = measured([1.0, 1.0, 1.0, 3.0, 2.0], [0, 0, 1, 1, 3], max_staleness=2)
    assert [found[f"engine/tokens_age_{age}"] for age in (0, 1, 2)] == pytest.approx([0.4, 0.4, 0.0])
    assert found["engine/ess_age_0"] == pytest.approx(1.0)
    assert found["engine/logprob_gap_age_0"] == pytest.approx(0.0, abs=1e-7)
    assert found["engine/ess_age_1"] == pytest.approx(0.8)
    assert found["engine/logprob_gap_age_1"] == pytest.approx(math.log(3) / 2)
    assert "engine/ess_age_2" not in found, "no token has age 2"
    assert "engine/logprob_gap_age_2" not in found


def test_tokens_over_the_bound_are_measured_together() -> None:
    """Weights 2, 4 of ages 3 and 4: 36 / (2 * 20) = 0.9."""
    found = measured([1.0, 2.0, 4.0], [1, 3, 4], max_staleness=2)
    assert found["engine/tokens_age_older"] == pytest.approx(2 / 3)
    assert found["engine/ess_age_older"] == pytest.approx(0.9)
    assert found["engine/logprob_gap_age_older"] == pytest.approx(1.5 * math.log(2))
    assert "engine/tokens_age_older" not in measured([1.0, 2.0], [0, 2], max_staleness=2)


def test_all_tokens_together_have_the_share_of_all_ages() -> None:
    """Weights 1, 1, 1, 3: 36 / (4 * 12) = 0.75, whatever their ages."""
    assert measured([1.0, 1.0, 1.0, 3.0], [0, 0, 1, 1], max_staleness=1)["engine/importance_ess"] == pytest.approx(0.75)


def test_the_prefix_hit_rate_is_the_share_of_prompt_tokens_that_servers_had_cached() -> None:
    cached = msgspec.structs.replace(completion([1, 2, 3, 4], [5]), cached_tokens=3)
    cold = completion([1, 2], [5])
    trials = [trial([[turn(0.0, response=cold)], [turn(1.0, response=cached)]], [reflection(cold)])]
    metrics = {metric.name: metric.value for metric in trial_metrics(trials, 2, 0)}
    assert metrics["rollout/prefix_hit_rate"] == 3 / 8


def test_shortened_prompts_are_counted_and_by_how_much() -> None:
    """One play prompt of three is shortened by 30 tokens, the reflection's by 10."""
    whole, cut, less = (
        msgspec.structs.replace(completion([1, 2], [5]), left_out_tokens=tokens) for tokens in (0, 30, 10)
    )
    one = trial([[turn(0.0, response=whole), turn(0.0, response=cut)], [turn(1.0, response=whole)]], [reflection(less)])
    metrics = {metric.name: metric.value for metric in trial_metrics([one], 2, 0)}
    assert one.left_out_tokens == (30, 10)
    assert metrics["rollout/shortened_prompts"] == 2 / 4
    assert metrics["rollout/left_out_tokens"] == 20.0
    uncut = {metric.name: metric.value for metric in trial_metrics([trial([[turn(0.0, response=whole)]])], 1, 0)}
    assert uncut["rollout/shortened_prompts"] == 0.0
    assert "rollout/left_out_tokens" not in uncut


def test_scores_beside_the_reward_are_averaged_over_the_turns_that_have_one() -> None:
    bought = [msgspec.structs.replace(turn(0.0), score=score) for score in (0.25, 0.75)]
    plain = trial([[turn(0.0)]], slot=2)
    trials = [trial([[turn(0.0), bought[0]]]), trial([[bought[1]]], slot=1), plain]
    assert {each.name: each.value for each in trial_metrics(trials, 1, 0)}["train/score"] == 0.5
    assert "train/score" not in {each.name for each in trial_metrics([plain], 1, 0)}
