"""Confidence intervals against published and hand-worked figures."""

from __future__ import annotations

import numpy as np
import pytest

from lamer.common.errors import BadInput
from lamer.learner.measuring.intervals import Interval, bootstrap_intervals, wilson_interval


@pytest.mark.parametrize(
    ("solved", "n", "low", "high"),
    [(9, 10, 0.5958, 0.9821), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_the_wilson_interval_is_that_of_published_examples(solved: int, n: int, low: float, high: float) -> None:
    """At 0 of n it is 0 .. z^2 / (n + z^2) = 3.8415 / 13.8415."""
    interval = wilson_interval(solved, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_has_no_interval() -> None:
    with pytest.raises(BadInput, match="0 of 0"):
        wilson_interval(0, 0)
    with pytest.raises(BadInput, match="3 of 2"):
        wilson_interval(3, 2)


def test_the_bootstrap_of_two_tasks_spans_what_draws_of_two_can_give() -> None:
    """Of 0 and 1 a draw of two is 0 with 1/4, 1/2 with 1/2, 1 with 1/4: both ends have more than 2.5%."""
    assert bootstrap_intervals(np.array([[0.0], [1.0]])) == (Interval(0.0, 1.0),)


def test_the_bootstrap_of_many_tasks_is_close_to_the_normal_approximation() -> None:
    """300 of 1000 solved: .3 +- 1.96 * sqrt(.3 * .7 / 1000) = .2716 .. .3284."""
    shares = np.repeat([1.0, 0.0], [300, 700])[:, None]
    (interval,) = bootstrap_intervals(shares)
    assert (interval.low, interval.high) == pytest.approx((0.2716, 0.3284), abs=0.003)


def test_rounds_of_one_task_narrow_an_interval_less_than_as_many_tasks() -> None:
    """100 tasks that are each always or never solved: four rounds say no more than one does."""
    once = np.repeat([1.0, 0.0], 50)[:, None]
    four_rounds = np.stack([once[:, 0]] * 4, axis=1).mean(axis=1, keepdims=True)
    assert bootstrap_intervals(four_rounds) == bootstrap_intervals(once)
    as_tasks = np.repeat([1.0, 0.0], 200)[:, None]
    (narrow,), (wide,) = bootstrap_intervals(as_tasks), bootstrap_intervals(once)
    assert narrow.high - narrow.low == pytest.approx((wide.high - wide.low) / 2, rel=0.1)


def test_every_column_has_its_interval_and_equal_values_give_equal_ones() -> None:
    shares = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    first, second = bootstrap_intervals(shares)
    assert first.low < 0.5 < first.high
    assert second == Interval(1.0, 1.0)
    assert bootstrap_intervals(shares) == (first, second)


def test_no_tasks_have_no_interval_and_one_column_too_few_is_refused() -> None:
    assert bootstrap_intervals(np.zeros((0, 3))) == ()
    with pytest.raises(BadInput, match=r"\(3,\)"):
        bootstrap_intervals(np.zeros(3))
