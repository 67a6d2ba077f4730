"""What an evaluation counts, on worked examples."""

from __future__ import annotations

import math

import pytest

from common.errors import BadInput
from common.messages import Sampling
from common.records import EpisodeStatus, Purpose, Trial
from learner.evaluation import Evaluation, entropy, evaluation_task, is_faulty, pass_at, wilson_interval
from learner.groups import Acceptance
from tests.learner.scripted import make_trial
from tests.learner.test_leases import lease

SAMPLING = Sampling(0.7, 1.0, 0, 8, 8)
SOLVED, FAILED = EpisodeStatus.SOLVED, EpisodeStatus.FAILED


def played(task: int, *statuses: EpisodeStatus) -> Trial:
    return make_trial(lease(task, 0, Purpose.EVALUATE), statuses=statuses)


def test_pass_at_k_counts_trials_solved_within_k_episodes() -> None:
    assert pass_at([0, 2, None, None], 3) == (0.25, 0.25, 0.5)
    assert pass_at([], 2) == (0.0, 0.0)


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


def test_entropy_is_that_of_the_empirical_distribution_in_nats() -> None:
    assert entropy(["a", "b", "c", "d"]) == pytest.approx(math.log(4))
    assert entropy(["a", "a"]) == 0.0
    assert entropy([]) == 0.0


def test_a_faulty_trial_is_played_again_and_left_out_after_the_retries() -> None:
    evaluation = Evaluation("final", 0, tasks=2, slot_retries=1)
    assert [evaluation.take(), evaluation.take(), evaluation.take()] == [0, 1, None]
    evaluation.fail(0)
    assert evaluation.take() == 0
    evaluation.fail(0)
    assert evaluation.take() is None
    assert evaluation.accept(1, played(1, FAILED, SOLVED)) is Acceptance.NEW
    assert not evaluation.finished.is_set(), "its trial is not on disk"
    evaluation.store(1)
    assert evaluation.finished.is_set()
    result = evaluation.result(2, SAMPLING, 1.0)
    assert (result.n, result.failed, result.pass_at) == (1, 1, (0.0, 1.0))


def test_a_duplicate_is_counted_once() -> None:
    evaluation = Evaluation("final", 0, tasks=1, slot_retries=1)
    assert evaluation.accept(0, played(0, SOLVED)) is Acceptance.NEW
    assert evaluation.accept(0, played(0, FAILED)) is Acceptance.DUPLICATE
    assert evaluation.accept(5, played(5, FAILED)) is Acceptance.LATE
    assert evaluation.result(1, SAMPLING, 1.0).pass_at == (1.0,)


def test_a_context_overflow_is_an_unsolved_trial_and_a_server_fault_is_none() -> None:
    assert not is_faulty(played(0, FAILED, EpisodeStatus.CONTEXT_OVERFLOW))
    assert is_faulty(played(0, FAILED, EpisodeStatus.INFERENCE_ERROR))
    assert is_faulty(played(0))


def test_a_restored_evaluation_leases_only_what_is_missing() -> None:
    evaluation = Evaluation("final", 0, tasks=3, slot_retries=0)
    evaluation.restore([played(0, SOLVED), played(2, FAILED)])
    assert [evaluation.take(), evaluation.take()] == [1, None]
    assert evaluation.done == 2


def test_figures_of_turns_and_responses_are_means_over_all_trials() -> None:
    evaluation = Evaluation("final", 0, tasks=2, slot_retries=0)
    evaluation.accept(0, played(0, SOLVED))
    evaluation.accept(1, played(1, FAILED, FAILED, SOLVED))
    result = evaluation.result(3, SAMPLING, 2.0)
    assert (result.mean_turns, result.mean_response_tokens, result.valid_action_rate) == (2.0, 3.0, 1.0)


def test_evaluation_tasks_have_seeds_that_training_never_uses() -> None:
    assert evaluation_task("doors", "{}", 3).seed == 2**30 + 3
