"""Group advantages against the reference's numbers (golden/advantages.json) and numbers worked by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamer.common.settings import AdvantageSettings
from lamer.learner.credit.advantages import (
    FloatArray,
    GroupRows,
    Normalise,
    batch_advantages,
    gigpo,
    group_advantages,
    grpo,
    normalise,
    reinforce_pp,
    rloo,
    within_anchors,
)

STD = 1e-4


def golden_groups(shared: Path) -> Iterator[tuple[FloatArray, FloatArray, list[str], dict[str, Any], list[int]]]:
    """Every golden case, one group (uid) at a time, with a function that picks the group's expected rows."""
    for case in json.loads((shared / "golden" / "advantages.json").read_text())["cases"]:
        inputs = case["inputs"]
        for uid in dict.fromkeys(inputs["uid"]):
            rows = [row for row, name in enumerate(inputs["uid"]) if name == uid]
            scores = np.array(inputs["episode_score"], dtype=np.float64)[rows]
            returns = np.array(inputs["step_return"], dtype=np.float64)[rows]
            yield scores, returns, [inputs["anchor"][row] for row in rows], case["expected"], rows


@pytest.mark.parametrize(("how", "key"), [("mean", "mean_norm"), ("mean_std", "mean_std_norm")])
def test_gigpo_equals_the_golden_cases(shared: Path, how: Normalise, key: str) -> None:
    for scores, returns, anchors, expected, rows in golden_groups(shared):
        golden = {name: np.array(values)[rows] for name, values in expected[key].items()}

        step_part = within_anchors(returns, anchors, how)
        np.testing.assert_allclose(step_part, golden["step_advantage"], atol=STD, rtol=STD)
        if how == "mean_std" and len(scores) > 1 and np.ptp(scores) == 0:
            continue  # the reference divides float32 rounding by 1e-6 there
        np.testing.assert_allclose(normalise(scores, how), golden["episode_advantage"], atol=STD, rtol=STD)
        for weight, name in ((1.0, "gigpo_w1"), (0.5, "gigpo_w0_5")):
            found = gigpo(scores, returns, anchors, 1.0, weight, how)
            np.testing.assert_allclose(found, golden[name], atol=STD, rtol=STD)


def test_grpo_and_rloo_equal_the_golden_cases(shared: Path) -> None:
    for scores, _, _, expected, rows in golden_groups(shared):
        np.testing.assert_allclose(grpo(scores, "mean"), np.array(expected["grpo_nostd"])[rows], atol=STD, rtol=STD)
        np.testing.assert_allclose(rloo(scores), np.array(expected["rloo"])[rows], atol=STD, rtol=STD)
        if len(scores) == 1 or np.ptp(scores) > 0:
            np.testing.assert_allclose(
                grpo(scores, "mean_std"), np.array(expected["grpo_std"])[rows], atol=STD, rtol=STD
            )


def test_steps_are_compared_within_equal_anchors_only() -> None:
    returns = np.array([1.0, 3.0, 10.0, 20.0, 7.0])
    assert within_anchors(returns, ["a", "a", "b", "b", "c"], "mean").tolist() == [-1.0, 1.0, -5.0, 5.0, 0.0]


def test_a_reflection_and_a_turn_never_share_an_anchor() -> None:
    assert within_anchors(np.array([1.0, 3.0]), ["a", ("reflection", "a")], "mean").tolist() == [0.0, 0.0]


def test_a_group_of_equal_scores_has_no_episode_advantage_even_when_divided_by_its_std() -> None:
    assert normalise(np.full(4, 10.0), "mean_std").tolist() == [0.0] * 4


def test_the_penalty_of_an_invalid_response_lowers_its_own_score() -> None:
    rows = GroupRows(np.array([10.0, 10.0]), np.array([0.0, 0.0]), np.array([0.0, 0.5]), ["a", "b"])
    found = group_advantages(rows, AdvantageSettings(step_weight=0.0))
    assert found.tolist() == [0.25, -0.25]


def test_an_invalid_response_costs_the_same_without_the_episode_part() -> None:
    rows = GroupRows(np.array([10.0, 0.0]), np.array([0.0, 0.0]), np.array([0.0, 3.0]), ["a", "b"])
    found = group_advantages(rows, AdvantageSettings(episode_weight=0.0))
    assert found.tolist() == [1.5, -1.5]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("gigpo", [2.5 - 1.5, -2.5, 0.0 + 1.5]),  # rewards less 2.5, plus returns less the mean of their anchor
        ("grpo", [-1.0, -1.0, 2.0]),  # returns less their mean
        ("rloo", [-1.5, -1.5, 3.0]),  # returns less the mean of the others
    ],
)
def test_the_configured_estimator_is_used_with_its_own_values(estimator: str, expected: list[float]) -> None:
    rows = GroupRows(np.array([5.0, 0.0, 2.5]), np.array([0.0, 0.0, 3.0]), np.zeros(3), ["a", "b", "a"])
    assert group_advantages(rows, AdvantageSettings(estimator=estimator)).tolist() == pytest.approx(expected)


def two_groups(penalty: float = 0.0) -> list[GroupRows]:
    """An uncertain task and one that is always solved."""
    hard = GroupRows(np.array([4.0, 0.0]), np.array([4.0, 0.0]), np.array([penalty, 0.0]), ["a", "b"])
    easy = GroupRows(np.array([8.0, 8.0]), np.array([8.0, 8.0]), np.zeros(2), ["a", "b"])
    return [hard, easy]


def test_reinforce_pp_compares_with_the_whole_batch_and_the_others_within_the_group() -> None:
    # returns 4, 0, 8, 8: mean 5, squared distances 1 + 25 + 9 + 9 = 44, std sqrt(44 / 3)
    std = (44 / 3) ** 0.5
    found = batch_advantages(two_groups(), AdvantageSettings(estimator="reinforce_pp"))
    assert found.tolist() == pytest.approx([-1 / std, -5 / std, 3 / std, 3 / std], abs=1e-5)
    assert batch_advantages(two_groups(), AdvantageSettings(estimator="grpo")).tolist() == [2.0, -2.0, 0.0, 0.0]
    assert batch_advantages(two_groups(), AdvantageSettings(estimator="rloo")).tolist() == [4.0, -4.0, 0.0, 0.0]


def test_the_penalty_of_an_invalid_response_lowers_its_return_before_the_batch_is_compared() -> None:
    found = batch_advantages(two_groups(penalty=4.0), AdvantageSettings(estimator="reinforce_pp"))
    np.testing.assert_allclose(found, reinforce_pp(np.array([0.0, 0.0, 8.0, 8.0])))


def test_a_batch_of_equal_returns_has_no_advantage() -> None:
    assert reinforce_pp(np.full(5, 10.0)).tolist() == [0.0] * 5


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        GroupRows(np.zeros(2), np.zeros(3), np.zeros(2), ["a", "b"])
