"""Returns against the paper's Eq. 4, the reference's recursion and numbers worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamer.common.records import Trial
from lamer.learner.credit.returns import Form, TrialReturns, cross_episode_returns, discounted_sums, trial_returns
from tests.learner.builders import reflection, trial, turn

WORKED = [[0.0, 0.0, 0.0], [0.0, 0.0], [0.0, 10.0]]


def golden_cases(shared: Path) -> list[dict[str, Any]]:
    return json.loads((shared / "golden" / "credit_assignment.json").read_text())["cases"]


def build(steps: list[dict[str, Any]]) -> Trial:
    """A trial from golden steps: play steps by attempt, a reflect step stands before its attempt."""
    attempts: dict[int, list[float]] = {}
    for step in steps:
        if step["phase"] == "play":
            attempts.setdefault(step["traj_idx"], []).append(step["rewards"])
    reflections = [reflection() for step in steps if step["phase"] == "reflect"]
    return trial([[turn(reward) for reward in rewards] for rewards in attempts.values()], reflections)


def in_time_order(returns: TrialReturns, steps: list[dict[str, Any]]) -> list[float]:
    turns = {index: list(values) for index, values in enumerate(returns.turns)}
    reflections = list(returns.reflections)
    return [turns[step["traj_idx"]].pop(0) if step["phase"] == "play" else reflections.pop(0) for step in steps]


@pytest.mark.parametrize(("form", "key"), [("paper", "paper_eq4"), ("reference", "expected")])
def test_returns_equal_the_golden_cases(shared: Path, form: Form, key: str) -> None:
    cases = golden_cases(shared)
    for case in cases:
        inputs = case["inputs"]
        returns = trial_returns(build(inputs["steps"]), form, inputs["step_gamma"], inputs["traj_gamma"])
        expected = case[key] if key == "paper_eq4" else case[key]["step_returns"]
        assert in_time_order(returns, inputs["steps"]) == pytest.approx(expected, abs=1e-9), case["id"]
    assert len(cases) >= 40


def test_the_paper_adds_the_same_credit_from_later_episodes_to_every_step() -> None:
    returns = cross_episode_returns(WORKED, "paper", 0.95, 0.6)
    assert returns[0] == pytest.approx((3.42, 3.42, 3.42))  # 0.6^2 * 9.5
    assert returns[1] == pytest.approx((5.7, 5.7))
    assert returns[2] == pytest.approx((9.5, 10.0))


def test_the_reference_discounts_that_credit_by_the_steps_left_in_the_episode() -> None:
    returns = cross_episode_returns(WORKED, "reference", 0.95, 0.6)
    assert returns[0] == pytest.approx((2.9322225, 3.08655, 3.249))
    assert returns[1] == pytest.approx((5.415, 5.7))


def test_rewards_of_the_own_episode_before_a_step_do_not_count() -> None:
    assert discounted_sums([4.0, 2.0, 1.0], 0.5) == pytest.approx([5.25, 2.5, 1.0])


def test_a_reflection_is_credited_with_the_episode_that_follows_it() -> None:
    returns = trial_returns(build_three(), "paper", 0.5, 0.1)
    assert returns.reflections == pytest.approx((returns.turns[1][0], returns.turns[2][0]))


@pytest.mark.parametrize("form", ["paper", "reference"])
def test_with_trial_discount_0_each_episode_stands_for_itself_and_reflections_keep_their_credit(form: Form) -> None:
    returns = trial_returns(build_three(), form, 1.0, 0.0)
    assert returns.turns == ((0.0,), (0.0, 0.0), (10.0,))
    assert returns.reflections == (0.0, 10.0)


def test_a_reflection_after_the_last_episode_has_no_return() -> None:
    cut = trial([[turn(0.0)], [turn(1.0)]], [reflection(), reflection()])
    assert trial_returns(cut, "paper", 1.0, 1.0).reflections == (1.0,)


def build_three() -> Trial:
    return trial([[turn(0.0)], [turn(0.0), turn(0.0)], [turn(10.0)]], [reflection(), reflection()], is_solved=True)
