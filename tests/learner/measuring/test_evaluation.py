"""What an evaluation counts, on worked examples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.errors import BadInput
from lamer.common.messages import Sampling
from lamer.common.records import Episode, EpisodeStatus, MemoryMode, Purpose, Task, Trial
from lamer.learner.measuring.counting import is_faulty, measure, pass_at, summarise, task_shares
from lamer.learner.measuring.evaluation import (
    EvaluationPlan,
    EvaluationResult,
    TaskOutcome,
    evaluation_task,
    read_evaluation,
    read_evaluations,
    write_evaluation,
)
from lamer.learner.measuring.intervals import Interval
from tests.learner.builders import completion, reflection, turn
from tests.learner.gateway.test_leases import lease
from tests.learner.scripted import make_trial

SOLVED, FAILED = EpisodeStatus.SOLVED, EpisodeStatus.FAILED
PLAN = EvaluationPlan(
    name="final",
    policy_version=0,
    env="doors",
    env_config="{}",
    tasks=2,
    rounds=1,
    episodes=3,
    memory=MemoryMode.BOTH,
    sampling=Sampling(0.7, 1.0, 0, 8, 8),
)


def played(play: int, *statuses: EpisodeStatus) -> Trial:
    return make_trial(lease(play, 0, Purpose.EVALUATE), statuses=statuses)


def summary_of(plan: EvaluationPlan, trials: Sequence[Trial], failed: Sequence[int] = ()) -> EvaluationResult:
    return summarise(plan, {trial.group_id: measure(trial) for trial in trials}, failed, seconds=1.0)


def test_pass_at_k_counts_trials_solved_within_k_episodes() -> None:
    assert pass_at([0, 2, None, None], 3) == (0.25, 0.25, 0.5)
    assert pass_at([], 2) == (0.0, 0.0)


def test_pass_at_k_goes_on_for_any_number_of_episodes() -> None:
    assert pass_at([0, 5], 8) == (0.5,) * 5 + (1.0,) * 3


def test_evaluation_tasks_have_seeds_that_training_never_uses() -> None:
    assert evaluation_task("doors", "{}", 3).seed == 2**30 + 3


def test_every_round_plays_the_same_tasks() -> None:
    plan = replace(PLAN, tasks=3, rounds=2)
    assert plan.plays == 6
    assert [plan.task(play).seed - 2**30 for play in range(6)] == [0, 1, 2, 0, 1, 2]
    assert plan.task(4) == Task("doors", "{}", 2**30 + 1)


def test_a_context_overflow_is_an_unsolved_trial_and_a_server_fault_is_none() -> None:
    overflowed = played(0, FAILED, EpisodeStatus.CONTEXT_OVERFLOW)
    assert not is_faulty(overflowed)
    assert is_faulty(played(0, FAILED, EpisodeStatus.INFERENCE_ERROR))
    assert is_faulty(played(0))
    result = summary_of(PLAN, [overflowed, played(1, SOLVED)])
    assert (result.n, result.overflowed, result.pass_at) == (2, 1, (0.5, 0.5, 0.5))


def test_figures_of_turns_and_responses_are_means_over_all_trials() -> None:
    result = summary_of(PLAN, [played(0, SOLVED), played(1, FAILED, FAILED, SOLVED)])
    assert (result.mean_turns, result.mean_response_tokens, result.valid_action_rate) == (2.0, 3.0, 1.0)
    assert (result.turns_per_episode, result.tokens_per_episode) == (1.0, 3.0)


def test_pass_at_k_over_rounds_is_the_mean_over_tasks_of_the_mean_over_rounds() -> None:
    """Task 0 solved in 1 of its 2 rounds at once, task 1 in its only round that was played: (1/2 + 1) / 2."""
    plan = replace(PLAN, rounds=2)
    result = summary_of(plan, [played(0, SOLVED), played(1, FAILED, SOLVED), played(2, FAILED, FAILED, FAILED)], [3])
    assert result.outcomes == (TaskOutcome(0, 2**30, (0, None)), TaskOutcome(1, 2**30 + 1, (1,), failed=1))
    assert result.pass_at == (0.25, 0.75, 0.75)
    assert (result.n, result.failed, result.tasks, result.rounds) == (3, 1, 2, 2)
    assert result.intervals[0] == Interval(0.0, 0.5)
    assert task_shares(result.outcomes, 3).tolist() == [[0.5, 0.5, 0.5], [0.0, 1.0, 1.0]]


def test_a_task_without_a_round_that_was_played_is_left_out() -> None:
    result = summary_of(PLAN, [played(1, SOLVED)], failed=[0])
    assert (result.pass_at, result.tasks, result.failed) == ((1.0, 1.0, 1.0), 1, 1)
    assert result.outcomes[0] == TaskOutcome(0, 2**30, (), failed=1)


def test_an_evaluation_in_which_everything_failed_has_no_share_and_no_interval() -> None:
    result = summary_of(PLAN, [], failed=[0, 1])
    assert (result.n, result.tasks, result.pass_at, result.intervals) == (0, 0, (0.0, 0.0, 0.0), ())
    assert result.trial_diversity is None


def trial(play: int, *actions: str | None, prize: str = "3") -> Trial:
    """One opening an episode, until the prize; a reflection of two tokens after each that did not find it."""
    episodes, reflections = [], []
    for index, action in enumerate(actions):
        is_solved = action == prize
        step = turn(10.0 if is_solved else 0.0, f"s{index}", completion([1], [5, 6, 7]), action)
        episodes.append(Episode(index, (step,), SOLVED if is_solved else FAILED))
        if not is_solved and index + 1 < len(actions):
            reflections.append(reflection(completion([1], [8, 9])))
    task = PLAN.task(play)
    return Trial(f"r/evaluate/{play}/0", play, 0, Purpose.EVALUATE, task, tuple(episodes), tuple(reflections), "a", 1.0)


def test_diversity_counts_first_episodes_and_whole_trials_by_task() -> None:
    """Task 0 in four rounds opens 1,3 | 1,3 | 1,2 | 2,3, task 1 always 3. First episodes: -(3/4 ln 3/4 + 1/4 ln 1/4)
    and 0; whole trials: -(2/4 ln 2/4 + 2 * 1/4 ln 1/4) = 1.0397 and 0.
    """
    opened = [("1", "3"), ("1", "3"), ("1", "2"), ("2", "3")]
    trials = [trial(2 * i, *actions) for i, actions in enumerate(opened)] + [trial(2 * i + 1, "3") for i in range(4)]
    result = summary_of(replace(PLAN, rounds=4), trials)
    first, second, third = (figures.diversity for figures in result.by_episode)
    assert first is not None
    assert first.nats == pytest.approx(0.562335 / 2, abs=1e-6)
    assert result.trial_diversity is not None
    assert result.trial_diversity.nats == pytest.approx(1.5 * math.log(2) / 2)
    assert second is not None, "task 1 never came to a second episode, task 0 four times"
    assert (second.tasks, second.nats) == (1, pytest.approx(0.562335, abs=1e-6))
    assert third is None
    assert [figures.trials for figures in result.by_episode] == [8, 4, 0]
    assert [figures.solved for figures in result.by_episode] == [0.5, 0.75, 0.0]


def test_tokens_of_turns_and_of_reflections_are_told_apart() -> None:
    """Trials of two episodes and a reflection, and of one: 9 tokens in 3 turns, 2 in one reflection."""
    result = summary_of(PLAN, [trial(0, None, "3"), trial(1, "3")])
    assert (result.tokens_per_episode, result.reflection_tokens) == (3.0, 2.0)
    assert result.mean_response_tokens == pytest.approx(11 / 4)
    assert result.valid_action_rate == pytest.approx(2 / 3)
    assert [figures.valid_action_rate for figures in result.by_episode] == [0.5, 1.0, 0.0]


def test_the_file_of_an_evaluation_is_read_back_as_it_was(tmp_path: Path) -> None:
    result = summary_of(replace(PLAN, rounds=2), [trial(0, "1", "3"), trial(1, "3"), trial(2, "2", "1", "1")], [3])
    path = write_evaluation(result, tmp_path)
    assert path == tmp_path / "evaluations" / "final.json"
    assert read_evaluation(path) == result
    later = replace(result, name="update-20", policy_version=20)
    write_evaluation(later, tmp_path)
    assert read_evaluations(tmp_path) == (result, later)
    assert json.loads(path.read_text())["outcomes"][0]["solved_at"] == [1, None]


def test_a_folder_without_evaluations_has_none_and_another_file_is_refused(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == ()
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "final.json").write_text('{"name": 3}')
    with pytest.raises(BadInput, match=r"final\.json is no evaluation"):
        read_evaluations(tmp_path)


def test_metrics_name_every_pass_at_k_with_its_interval() -> None:
    metrics = {each.name: each.value for each in summary_of(PLAN, [trial(0, "3"), trial(1, "1", "2")]).metrics()}
    assert (metrics["eval/pass@1"], metrics["eval/pass@1_low"], metrics["eval/pass@3_high"]) == (0.5, 0.0, 1.0)
    assert "eval/trial_diversity" not in metrics, "no task was played twice"
