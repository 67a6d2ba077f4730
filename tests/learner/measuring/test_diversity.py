"""Trajectory diversity on worked examples."""

from __future__ import annotations

import math

import pytest

from lamer.common.records import Episode, EpisodeStatus
from lamer.learner.measuring.diversity import diversity, entropy, trajectory
from tests.learner.builders import completion, turn


def episode(*steps: tuple[str, str | None], reward: float = 0.0) -> Episode:
    turns = tuple(turn(reward, state, action=action) for state, action in steps)
    return Episode(0, turns, EpisodeStatus.FAILED)


def test_entropy_is_that_of_the_empirical_distribution_in_nats() -> None:
    assert entropy(["a", "b", "c", "d"]) == pytest.approx(math.log(4))
    assert entropy(["a", "a"]) == 0.0
    assert entropy([]) == 0.0


def test_trajectories_are_equal_by_their_states_and_actions_alone() -> None:
    first = episode(("s0", "up"), ("s1", "left"))
    assert trajectory(first) == trajectory(episode(("s0", "up"), ("s1", "left"), reward=3.0))
    worded_otherwise = Episode(
        1,
        (turn(0.0, "s0", completion([7], [8, 9]), "up"), turn(0.0, "s1", completion([7], [9]), "left")),
        EpisodeStatus.MAX_TURNS,
    )
    assert trajectory(first) == trajectory(worded_otherwise)


@pytest.mark.parametrize(
    "other",
    [
        episode(("s0", "up")),
        episode(("s0", "up"), ("s2", "left")),
        episode(("s0", "up"), ("s1", "right")),
        episode(("s0", "up"), ("s1", None)),
        episode(("s1", "left"), ("s0", "up")),
        episode(("s0", "ups1"), ("", "left")),
    ],
)
def test_another_state_action_or_order_is_another_trajectory(other: Episode) -> None:
    assert trajectory(other) != trajectory(episode(("s0", "up"), ("s1", "left")))


def test_responses_without_an_action_are_the_same_action_and_no_empty_one() -> None:
    assert trajectory(episode(("s", None))) == trajectory(episode(("s", None)))
    assert trajectory(episode(("s", None))) != trajectory(episode(("s", "")))


def test_diversity_is_the_mean_over_tasks_of_the_entropy_over_identical_trajectories() -> None:
    """Entropies: ln 2, 0 and -(3/4 ln 3/4 + 1/4 ln 1/4) = .5623; their mean .4185."""
    found = diversity([["a", "a", "b", "b"], ["c", "c", "c", "c"], ["d", "e", "d", "d"]])
    assert found is not None
    assert found.nats == pytest.approx((math.log(2) + 0.0 + 0.562335) / 3, abs=1e-6)
    assert found.interval.low <= found.nats <= found.interval.high
    assert (found.distinct, found.tasks, found.rollouts) == (pytest.approx(5 / 3), 3, 4.0)


def test_tasks_that_were_played_once_say_nothing_about_diversity() -> None:
    assert diversity([["a"], [], ["b"]]) is None
    found = diversity([["a"], ["b", "c"]])
    assert found is not None
    assert (found.nats, found.tasks) == (pytest.approx(math.log(2)), 1)
