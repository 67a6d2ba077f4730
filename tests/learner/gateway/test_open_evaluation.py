"""An evaluation under way: what is leased, given up and counted."""

from __future__ import annotations

import pytest

from lamer.common.records import EpisodeStatus, MemoryMode
from lamer.common.settings import EvaluationSettings, Settings, TrialSettings
from lamer.learner.gateway.groups import Acceptance
from lamer.learner.gateway.open_evaluation import OpenEvaluation
from lamer.learner.gateway.plan import EvaluationSchedule, asked_of_evaluations
from lamer.learner.measuring.evaluation import EvaluationPlan
from tests.learner.measuring.test_evaluation import FAILED, SOLVED, played


def plan_of(settings: Settings, name: str, version: int) -> EvaluationPlan:
    asked = asked_of_evaluations(settings.evaluation, settings.trial, settings.env.name, "{}")
    return EvaluationSchedule(asked, every=0, updates=8, slot_retries=1).plan(name, version)


def evaluation(tasks: int, slot_retries: int = 1, rounds: int = 1) -> OpenEvaluation:
    settings = Settings(evaluation=EvaluationSettings(tasks=tasks, rounds=rounds, episodes=2))
    return OpenEvaluation(plan_of(settings, "final", 0), slot_retries)


def test_a_faulty_trial_is_played_again_and_left_out_after_the_retries() -> None:
    under_way = evaluation(tasks=2)
    assert [under_way.take(), under_way.take(), under_way.take()] == [0, 1, None]
    under_way.fail(0)
    assert under_way.take() == 0
    under_way.fail(0)
    assert under_way.take() is None
    assert under_way.accept(1, played(1, FAILED, SOLVED)) is Acceptance.NEW
    assert not under_way.finished.is_set(), "its trial is not on disk"
    under_way.store(1)
    assert under_way.finished.is_set()
    result = under_way.result(1.0)
    assert (result.n, result.failed, result.pass_at) == (1, 1, (0.0, 1.0))


def test_a_duplicate_is_counted_once() -> None:
    under_way = evaluation(tasks=1)
    assert under_way.accept(0, played(0, SOLVED)) is Acceptance.NEW
    assert under_way.accept(0, played(0, FAILED)) is Acceptance.DUPLICATE
    assert under_way.accept(5, played(5, FAILED)) is Acceptance.LATE
    assert under_way.result(1.0).pass_at == (1.0, 1.0)


def test_every_task_is_leased_once_in_every_round() -> None:
    under_way = evaluation(tasks=2, rounds=3)
    assert [under_way.take() for _ in range(7)] == [0, 1, 2, 3, 4, 5, None]
    for play in range(6):
        under_way.accept(play, played(play, SOLVED if play % 2 else FAILED))
        under_way.store(play)
    assert under_way.finished.is_set()
    result = under_way.result(1.0)
    assert [outcome.solved_at for outcome in result.outcomes] == [(None, None, None), (0, 0, 0)]


def test_a_restored_evaluation_leases_only_what_is_missing() -> None:
    under_way = evaluation(tasks=3)
    under_way.restore([played(0, SOLVED), played(2, FAILED)])
    assert [under_way.take(), under_way.take()] == [1, None]
    assert under_way.done == 2


def test_an_abandoned_evaluation_is_waited_for_no_longer() -> None:
    under_way = evaluation(tasks=3)
    under_way.abandon()
    assert under_way.finished.is_set()
    assert under_way.is_abandoned


@pytest.mark.parametrize(("asked", "expected"), [("", "trajectory"), ("none", "none"), ("both", "both")])
def test_memory_is_training_s_unless_the_evaluation_names_its_own(asked: str, expected: str) -> None:
    settings = Settings(
        trial=TrialSettings(episodes=1, memory=MemoryMode.TRAJECTORY),
        evaluation=EvaluationSettings(memory=asked, episodes=6),
    )
    plan = plan_of(settings, "final", 7)
    assert (plan.memory, plan.episodes, plan.policy_version) == (MemoryMode(expected), 6, 7)


def test_a_trial_that_outgrew_the_context_is_settled() -> None:
    under_way = evaluation(tasks=1)
    assert under_way.accept(0, played(0, EpisodeStatus.CONTEXT_OVERFLOW)) is Acceptance.NEW
    under_way.store(0)
    assert under_way.result(1.0).overflowed == 1
