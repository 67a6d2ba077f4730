"""What a cell's file keeps of an evaluation."""

from __future__ import annotations

from lamer.common.messages import Sampling
from lamer.deploy.experiments.results import measurement
from lamer.learner.measuring.evaluation import EvaluationResult, TaskOutcome


def evaluated(outcomes: tuple[TaskOutcome, ...], rounds: int) -> EvaluationResult:
    return EvaluationResult(
        name="final",
        policy_version=3,
        n=5,
        failed=1,
        pass_at=(0.25, 0.5),
        valid_action_rate=1.0,
        mean_turns=1.0,
        mean_response_tokens=1.0,
        first_action_entropy=0.0,
        sampling=Sampling(1.0, 1.0, 0, 8, 8),
        seconds=1.0,
        rounds=rounds,
        episodes=2,
        outcomes=outcomes,
    )


def test_every_tasks_outcome_is_kept_a_character_each() -> None:
    first = TaskOutcome(0, 100, (0, None))
    second = TaskOutcome(1, 101, (1,), failed=1)
    third = TaskOutcome(2, 102, (9, 40))
    assert measurement(evaluated((first, second, third), rounds=2)).outcomes == ("12a", "-?+")


def test_outcomes_tell_the_shares_that_are_kept_beside_them() -> None:
    tasks = tuple(TaskOutcome(index, index, (solved,)) for index, solved in enumerate((0, 1, None, None)))
    kept = measurement(evaluated(tasks, rounds=1))
    (marks,) = kept.outcomes
    within = [sum(mark in "12"[:k] for mark in marks) / len(marks) for k in (1, 2)]
    assert tuple(within) == kept.pass_at
