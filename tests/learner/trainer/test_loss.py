"""The policy loss against the reference's numbers and gradients (golden/policy_loss.json) and worked numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lamer.common.settings import LossSettings
from lamer.learner.trainer.loss import (
    ResponseTokens,
    TokenLogprobs,
    clipped_losses,
    effective_share,
    entropy_coefficient,
    k3_kl,
    policy_loss,
    ratio,
    value_loss,
)

DECOUPLED = LossSettings()


def aggregate(losses: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """The reference's four ways to reduce [rows, tokens]; lamer trains with token-mean."""
    if mode == "token-mean":
        return (losses * mask).sum() / mask.sum()
    sums = (losses * mask).sum(1)
    if mode == "seq-mean-token-sum":
        return sums.mean()
    if mode == "seq-mean-token-mean":
        return (sums / mask.sum(1)).mean()
    return sums.mean() / mask.shape[1]


def golden_cases(shared: Path) -> list[dict[str, Any]]:
    return json.loads((shared / "golden" / "policy_loss.json").read_text())["cases"]


def test_losses_gradients_and_clip_fractions_equal_the_golden_cases(shared: Path) -> None:
    for case in golden_cases(shared):
        inputs, expected = case["inputs"], case["expected"]
        old, advantages, mask = (torch.tensor(inputs[key]) for key in ("old_log_prob", "advantages", "response_mask"))
        new = torch.tensor(inputs["log_prob"], requires_grad=True)
        settings = LossSettings(clip_low=inputs["clip_low"], clip_high=inputs["clip_high"], dual_clip=inputs["clip_c"])
        losses, clipped, bounded = clipped_losses(ratio(new, old), advantages, settings)
        loss = aggregate(losses, mask, inputs["loss_agg_mode"])
        loss.backward()
        assert loss.item() == pytest.approx(expected["pg_loss"], abs=1e-4), case["id"]
        torch.testing.assert_close(new.grad, torch.tensor(expected["grad_log_prob"]), atol=1e-4, rtol=1e-4)
        assert float((clipped * mask).sum() / mask.sum()) == pytest.approx(expected["clipfrac"], abs=1e-6)
        assert float((bounded * mask).sum() / mask.sum()) == pytest.approx(expected["clipfrac_lower"], abs=1e-6)


def test_k3_equals_the_golden_cases(shared: Path) -> None:
    for case in golden_cases(shared):
        new, old = torch.tensor(case["inputs"]["log_prob"]), torch.tensor(case["inputs"]["old_log_prob"])
        torch.testing.assert_close(k3_kl(new, old), torch.tensor(case["expected"]["k3_kl"]), atol=1e-4, rtol=1e-4)


def logprobs(current: float, proximal: float, behaviour: float) -> TokenLogprobs:
    return TokenLogprobs(
        torch.tensor([math.log(current)], requires_grad=True),
        torch.tensor([math.log(proximal)]),
        torch.tensor([math.log(behaviour)]),
    )


ONE_TOKEN = ResponseTokens(torch.tensor([0]), torch.tensor([1]), 1.0)


def test_the_decoupled_loss_weighs_a_clipped_step_from_the_proximal_policy() -> None:
    # r = 0.3 / 0.2 = 1.5, clipped to 1.2; w = 0.2 / 0.1 = 2
    loss = policy_loss(logprobs(0.3, 0.2, 0.1), torch.tensor([1.0]), ONE_TOKEN, DECOUPLED)
    assert loss.losses.item() == pytest.approx(-2.4)
    assert bool(loss.clipped)


def test_importance_weights_are_capped_and_carry_no_gradient() -> None:
    parts = logprobs(0.2, 0.2, 0.01)  # w = 20, capped at 5
    loss = policy_loss(parts, torch.tensor([1.0]), ONE_TOKEN, DECOUPLED)
    loss.losses.sum().backward()
    assert loss.losses.item() == pytest.approx(-5.0)
    assert parts.current.grad.item() == pytest.approx(-5.0)
    assert bool(loss.capped)


def test_ppo_clip_measures_the_step_from_the_policy_that_sampled() -> None:
    loss = policy_loss(logprobs(0.3, 0.3, 0.2), torch.tensor([1.0]), ONE_TOKEN, LossSettings(kind="ppo_clip"))
    assert loss.losses.item() == pytest.approx(-1.2)


def test_on_policy_every_loss_has_the_plain_policy_gradient() -> None:
    for kind in ("decoupled_ppo", "ppo_clip", "uncorrected", "tis", "cispo", "gspo"):
        parts = logprobs(0.2, 0.2, 0.2)
        policy_loss(parts, torch.tensor([-0.7]), ONE_TOKEN, LossSettings(kind=kind)).losses.sum().backward()
        assert parts.current.grad.item() == pytest.approx(0.7)


def gradient(kind: str, parts: TokenLogprobs, **settings: float) -> float:
    """d loss / d log pi_theta of one token with advantage 1."""
    policy_loss(parts, torch.tensor([1.0]), ONE_TOKEN, LossSettings(kind=kind, **settings)).losses.sum().backward()
    return parts.current.grad.item()


def test_each_loss_corrects_a_stale_token_in_its_own_way() -> None:
    # pi_behave 0.1, and both later policies 0.25: the token is 2.5 times as likely as when it was sampled
    found = {
        kind: gradient(kind, logprobs(0.25, 0.25, 0.1), importance_cap=2.0)
        for kind in ("decoupled_ppo", "uncorrected", "ppo_clip", "tis", "cispo", "gspo")
    }
    assert found == pytest.approx(
        {
            "decoupled_ppo": -2.0,  # w, capped
            "uncorrected": -1.0,  # as if it were fresh
            "ppo_clip": 0.0,  # beyond the old policy's trust region
            "tis": -2.0,  # the capped ratio
            "cispo": -1.2,  # the clipped ratio
            "gspo": 0.0,
        }
    )


def test_the_uncorrected_loss_does_not_look_at_who_sampled() -> None:
    one, other = (
        policy_loss(logprobs(0.3, 0.25, behaviour), torch.tensor([1.0]), ONE_TOKEN, LossSettings(kind="uncorrected"))
        for behaviour in (0.01, 0.9)
    )
    assert one.losses.item() == other.losses.item() == pytest.approx(-1.2)


def test_gspo_gives_all_tokens_of_a_response_one_ratio_and_all_responses_one_weight() -> None:
    # response 0: ratios 2 and 8, their geometric mean 4; response 1: ratio 1
    parts = TokenLogprobs(torch.tensor([2.0, 1.0, 8.0]).log(), torch.zeros(3), torch.zeros(3))
    responses = ResponseTokens(torch.tensor([0, 1, 0]), torch.tensor([2, 1]), 1.5)
    settings = LossSettings(kind="gspo", clip_high=9.0)
    loss = policy_loss(parts, torch.tensor([1.0, 3.0, 1.0]), responses, settings)
    assert loss.losses.tolist() == pytest.approx([-4.0 * 0.75, -3.0 * 1.5, -4.0 * 0.75])
    assert loss.losses.sum().item() / 3 == pytest.approx((-4.0 - 3.0) / 2)


def test_a_value_that_moved_beyond_its_limit_gains_nothing_by_it() -> None:
    values = torch.tensor([3.0, 3.0, 1.2], requires_grad=True)
    before, targets = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0, 2.0, 5.0])
    loss = value_loss(values, before, targets, limit=0.5)
    loss.losses.sum().backward()
    # limited to 1.5: errors 3.5 > 2 (held), 0.5 < 1 (moved too far: pays), and within the limit
    assert loss.losses.tolist() == pytest.approx([0.5 * 3.5**2, 0.5, 0.5 * 3.8**2])
    assert values.grad.tolist() == pytest.approx([0.0, 1.0, -3.8])
    assert loss.clipped.tolist() == [True, False, False]


def test_a_bad_action_that_became_likely_is_bounded_by_the_dual_clip() -> None:
    parts = logprobs(0.9, 0.1, 0.1)  # r = 9, bound 3
    loss = policy_loss(parts, torch.tensor([-1.0]), ONE_TOKEN, DECOUPLED)
    loss.losses.sum().backward()
    assert loss.losses.item() == pytest.approx(3.0)
    assert parts.current.grad.item() == 0.0
    assert bool(loss.dual_clipped)


def test_ratios_stay_finite_for_impossible_tokens() -> None:
    assert float(ratio(torch.tensor(0.0), torch.tensor(-1e4))) == pytest.approx(math.exp(20.0))


def test_the_effective_share_is_one_for_equal_weights_and_one_nth_for_a_single_large_one() -> None:
    assert effective_share(torch.full((8,), 3.0)) == pytest.approx(1.0)
    assert effective_share(torch.tensor([1.0] + [0.0] * 7)) == pytest.approx(1 / 8)


def test_the_entropy_bonus_goes_linearly_from_its_first_to_its_last_value() -> None:
    settings = LossSettings(entropy=0.03, entropy_final=0.01)
    assert [entropy_coefficient(settings, step, 3) for step in (1, 2, 3)] == pytest.approx([0.03, 0.02, 0.01])
    assert entropy_coefficient(settings, 9, 3) == pytest.approx(0.01)
    assert entropy_coefficient(settings, 1, 1) == pytest.approx(0.03)
