"""What trials become: one sample a response, with the advantage of its place in the group."""

from __future__ import annotations

import numpy as np
import pytest

from lamer.common.errors import BadInput
from lamer.common.records import Purpose, Trial, VersionSpan
from lamer.common.settings import AdvantageSettings, CreditSettings
from lamer.learner.credit.samples import SampleKind, make_samples, unscored_samples
from tests.learner.builders import completion, play_batch, reflection, trial, turn

CREDIT = CreditSettings(step_discount=1.0, trial_discount=1.0)
EPISODE_ONLY = AdvantageSettings(step_weight=0.0)
STEP_ONLY = AdvantageSettings(episode_weight=0.0)


def won_late(slot: int = 0) -> Trial:
    """Fails, reflects, then wins 10."""
    return trial([[turn(0.0)], [turn(10.0)]], [reflection()], slot=slot, is_solved=True)


def lost(slot: int = 1) -> Trial:
    return trial([[turn(0.0)], [turn(0.0)]], [reflection()], slot=slot)


def test_every_turn_and_reflection_becomes_one_sample_in_the_order_of_generation() -> None:
    samples = make_samples([won_late()], 0, CREDIT, AdvantageSettings())
    assert [sample.kind for sample in samples] == [SampleKind.TURN, SampleKind.REFLECTION, SampleKind.TURN]


def test_samples_do_not_depend_on_the_order_of_the_trials() -> None:
    batch = play_batch(1)
    one = make_samples(batch, 0, CREDIT, AdvantageSettings())
    other = make_samples(batch[::-1], 0, CREDIT, AdvantageSettings())
    assert [(s.ids.tobytes(), s.prompt_ids.tobytes(), s.advantage) for s in one] == [
        (s.ids.tobytes(), s.prompt_ids.tobytes(), s.advantage) for s in other
    ]


def test_a_reflection_is_scored_with_the_episode_that_follows_it() -> None:
    # rows: 0, 10 (reflection), 10 and 0, 0, 0; the reference would score both reflections 0
    samples = make_samples([won_late(), lost()], 0, CREDIT, EPISODE_ONLY)
    mean = 20.0 / 6
    assert [sample.advantage for sample in samples] == pytest.approx([-mean, 10 - mean, 10 - mean, -mean, -mean, -mean])


def test_cross_episode_credit_reaches_the_first_episode_through_the_step_part() -> None:
    samples = make_samples([won_late(), lost()], 0, CREDIT, STEP_ONLY)
    # all four turns share the anchor: returns 10, 10, 0, 0; the two reflections share theirs: 10, 0
    assert [sample.advantage for sample in samples] == pytest.approx([5.0, 5.0, 5.0, -5.0, -5.0, -5.0])


def test_without_cross_episode_credit_the_first_episode_gets_none_of_the_later_success() -> None:
    alone = CreditSettings(step_discount=1.0, trial_discount=0.0)
    samples = make_samples([won_late(), lost()], 0, alone, STEP_ONLY)
    assert [sample.advantage for sample in samples] == pytest.approx([-2.5, 5.0, 7.5, -2.5, -5.0, -2.5])


def test_reflections_are_compared_where_the_following_episodes_start_alike() -> None:
    left = trial([[turn(0.0, "s")], [turn(10.0, "left")]], [reflection()], slot=0)
    right = trial([[turn(0.0, "s")], [turn(0.0, "right")]], [reflection()], slot=1)
    samples = make_samples([left, right], 0, CREDIT, STEP_ONLY)
    assert [sample.advantage for sample in samples if sample.kind is SampleKind.REFLECTION] == [0.0, 0.0]


def test_groups_are_not_compared_with_each_other() -> None:
    rich = [trial([[turn(10.0)]], group=0, slot=slot) for slot in range(2)]
    poor = [trial([[turn(0.0)]], group=1, slot=slot) for slot in range(2)]
    assert [sample.advantage for sample in make_samples(rich + poor, 0, CREDIT, AdvantageSettings())] == [0.0] * 4


def test_an_invalid_response_is_penalised_whether_turn_or_reflection() -> None:
    bad = trial([[turn(0.0, action=None)], [turn(0.0)]], [reflection(is_valid=False)])
    samples = make_samples([bad], 0, CREDIT, EPISODE_ONLY)
    assert [sample.advantage for sample in samples] == pytest.approx([-1 / 6, -1 / 6, 1 / 3])
    assert [sample.is_valid for sample in samples] == [False, False, True]


def test_ages_are_counted_per_token_from_the_version_trained_from() -> None:
    spans = [VersionSpan(3, 0, 2), VersionSpan(5, 2, 3)]
    mixed = trial([[turn(1.0, response=completion([1], [2, 3, 4], spans))]])
    (sample,) = make_samples([mixed], 5, CREDIT, AdvantageSettings())
    assert sample.ages.tolist() == [2, 2, 0]
    assert sample.age == 2


def test_a_reflection_that_no_episode_followed_is_not_trained() -> None:
    cut = trial([[turn(0.0)]], [reflection()])
    assert [s.kind for s in make_samples([cut], 0, CREDIT, AdvantageSettings())] == [SampleKind.TURN]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([], "at least one"),
        ([won_late(), won_late()], "twice"),
        ([trial([[turn(0.0)]], purpose=Purpose.EVALUATE)], "purpose evaluate"),
    ],
)
def test_a_batch_that_is_no_batch_is_refused(batch: list[Trial], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        make_samples(batch, 0, CREDIT, AdvantageSettings())


def test_advantages_are_finite_and_sum_to_zero_over_a_group_of_valid_responses() -> None:
    samples = make_samples(play_batch(2, groups=1, size=8), 0, CREDIT, AdvantageSettings())
    assert np.sum([sample.advantage for sample in samples]) == pytest.approx(0.0, abs=1e-9)


PPO = AdvantageSettings(estimator="ppo", invalid_action_penalty=3.0)


def test_ppo_takes_the_critics_values_off_the_cross_episode_returns() -> None:
    # won_late: turn, reflection, turn with return 10 each; lost: 0 each
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    samples = make_samples([won_late(), lost()], 0, CREDIT, PPO, values)
    assert [sample.advantage for sample in samples] == [9.0, 8.0, 7.0, -4.0, -5.0, -6.0]
    assert [sample.value for sample in samples] == values.tolist()
    assert [sample.value_target for sample in samples] == [10.0, 10.0, 10.0, 0.0, 0.0, 0.0]


def test_a_critic_is_asked_for_the_samples_in_their_order() -> None:
    batch = play_batch(3)
    asked = unscored_samples(batch[::-1], 0)
    made = make_samples(batch, 0, CREDIT, AdvantageSettings())
    assert [(one.prompt_ids.tobytes(), one.ids.tobytes()) for one in asked] == [
        (one.prompt_ids.tobytes(), one.ids.tobytes()) for one in made
    ]


def test_each_value_stays_with_its_own_sample_in_trials_of_several_turns() -> None:
    long = trial(
        [[turn(0.0), turn(0.0)], [turn(0.0)], [turn(0.0), turn(4.0)]], [reflection(), reflection()], is_solved=True
    )
    samples = make_samples([long], 0, CREDIT, PPO, np.arange(7.0))
    kinds = [sample.kind for sample in samples]
    assert kinds == [SampleKind.TURN] * 2 + [SampleKind.REFLECTION, SampleKind.TURN] * 2 + [SampleKind.TURN]
    assert [sample.advantage for sample in samples] == [4.0 - value for value in range(7)]


def test_for_ppo_an_invalid_response_lowers_its_own_reward_and_what_led_to_it() -> None:
    bad = trial([[turn(0.0), turn(0.0, action=None)], [turn(0.0)]], [reflection(is_valid=False)])
    samples = make_samples([bad], 0, CREDIT, PPO, np.zeros(4))
    assert [sample.advantage for sample in samples] == [-3.0, -3.0, -3.0, 0.0]


def test_whitened_advantages_have_mean_0_and_std_1_and_leave_the_critics_targets_alone() -> None:
    values = np.zeros(6)
    whitened = make_samples([won_late(), lost()], 0, CREDIT, AdvantageSettings(estimator="ppo", whiten=True), values)
    advantages = [sample.advantage for sample in whitened]
    assert np.mean(advantages) == pytest.approx(0.0)
    assert np.std(advantages, ddof=1) == pytest.approx(1.0, abs=1e-5)
    assert [sample.value_target for sample in whitened] == [10.0, 10.0, 10.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("estimator", ["gigpo", "grpo", "rloo", "ppo", "reinforce_pp"])
def test_every_estimator_credits_the_first_episode_with_later_success_only_if_asked_to(estimator: str) -> None:
    advantage = AdvantageSettings(estimator=estimator, episode_weight=0.0)
    values = np.zeros(6) if estimator == "ppo" else None

    def of_first_episodes(trial_discount: float) -> list[float]:
        credit = CreditSettings(step_discount=1.0, trial_discount=trial_discount)
        samples = make_samples([won_late(), lost()], 0, credit, advantage, values)
        return [samples[0].advantage, samples[3].advantage]

    won, missed = of_first_episodes(1.0)
    assert won > missed
    won, missed = of_first_episodes(0.0)
    assert won == missed


def test_ppo_without_a_value_for_each_sample_is_refused() -> None:
    with pytest.raises(BadInput, match="each of 3 samples, got 0"):
        make_samples([won_late()], 0, CREDIT, PPO)
    with pytest.raises(BadInput, match="each of 3 samples, got 2"):
        make_samples([won_late()], 0, CREDIT, PPO, np.zeros(2))
