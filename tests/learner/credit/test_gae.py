"""Advantages of a critic: worked numbers, and the identity with the returns where nothing is left to the critic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lamer.learner.credit.gae import GaeSettings, TrialAdvantages, TrialSteps, episode_advantages, trial_advantages
from lamer.learner.credit.returns import Form, cross_episode_returns

HALVES = GaeSettings("paper", step_discount=0.5, trial_discount=0.5, gae_lambda=0.5)


def two_episodes(**changes: object) -> TrialSteps:
    steps = TrialSteps(
        rewards=[[0.0, 0.0], [0.0, 8.0]],
        values=[[2.0, 2.0], [2.0, 2.0]],
        reflection_rewards=[0.0],
        reflection_values=[2.0],
    )
    return replace(steps, **changes)


def test_the_worked_example() -> None:
    found = trial_advantages(two_episodes(), HALVES)
    assert found == TrialAdvantages(turns=((-0.5625, -0.75), (0.5, 6.0)), reflections=(0.5,))


def test_the_reference_discounts_what_later_episodes_give_by_every_step() -> None:
    # episode 1 as in the worked example, L = 1.25: delta_1 = -0.75, delta_0 = 1 - 2 = -1, A_0 = -1 - 0.1875
    found = trial_advantages(two_episodes(), replace(HALVES, form="reference"))
    assert found.turns == ((-1.1875, -0.75), (0.5, 6.0))


def test_lambda_0_looks_one_step_ahead() -> None:
    found = episode_advantages([1.0, 0.0, 4.0], [3.0, 5.0, 2.0], 0.0, replace(HALVES, gae_lambda=0.0))
    assert found == [1.0 + 2.5 - 3.0, 0.0 + 1.0 - 5.0, 4.0 - 2.0]


@pytest.mark.parametrize("form", ["paper", "reference"])
@pytest.mark.parametrize("trial_discount", [0.0, 0.6, 1.0])
def test_with_lambda_1_advantages_are_the_returns_less_the_values(form: Form, trial_discount: float) -> None:
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=size).tolist() for size in (3, 1, 4)]
    values = [rng.normal(size=size).tolist() for size in (3, 1, 4)]
    steps = TrialSteps(rewards, values, reflection_rewards=[0.0, 0.0], reflection_values=[0.5, -0.5])
    found = trial_advantages(steps, GaeSettings(form, 0.9, trial_discount, 1.0))
    returns = cross_episode_returns(rewards, form, 0.9, trial_discount)
    for episode, own_values, own_returns in zip(found.turns, values, returns, strict=True):
        assert episode == pytest.approx(np.array(own_returns) - own_values)
    assert found.reflections == pytest.approx((returns[1][0] - 0.5, returns[2][0] + 0.5))


@pytest.mark.parametrize("form", ["paper", "reference"])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_a_critic_that_knows_the_outcome_leaves_no_advantage(form: Form, gae_lambda: float) -> None:
    rewards = [[0.0, 1.0, 0.0], [2.0, 5.0]]
    returns = cross_episode_returns(rewards, form, 0.9, 0.6)
    steps = TrialSteps(rewards, returns, reflection_rewards=[0.0], reflection_values=[returns[1][0]])
    found = trial_advantages(steps, GaeSettings(form, 0.9, 0.6, gae_lambda))
    assert [one for episode in found.turns for one in episode] == pytest.approx([0.0] * 5)
    assert found.reflections == pytest.approx((0.0,))


def test_without_cross_episode_credit_an_episode_stands_for_itself_and_a_reflection_for_the_next() -> None:
    found = trial_advantages(two_episodes(), replace(HALVES, trial_discount=0.0, gae_lambda=1.0))
    assert found.turns[0] == (-2.0, -2.0)
    assert found.reflections == (4.0 - 2.0,)


def test_an_invalid_reflection_is_worth_less_and_nothing_else_is() -> None:
    valid, invalid = (trial_advantages(two_episodes(reflection_rewards=[cost]), HALVES) for cost in (0.0, -3.0))
    assert invalid.turns == valid.turns
    assert invalid.reflections[0] == valid.reflections[0] - 3.0


def test_a_trial_of_one_episode_needs_no_reflection() -> None:
    steps = TrialSteps(rewards=[[4.0]], values=[[1.0]], reflection_rewards=[], reflection_values=[])
    assert trial_advantages(steps, HALVES) == TrialAdvantages(turns=((3.0,),), reflections=())
