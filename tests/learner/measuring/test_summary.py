"""summary.json: its keys, and that rates and versions are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.config import config_hash
from lamer.common.messages import Metric, Sampling
from lamer.common.records import MemoryMode
from lamer.common.settings import Settings
from lamer.learner.measuring.diversity import Diversity
from lamer.learner.measuring.evaluation import EvaluationResult, TaskOutcome
from lamer.learner.measuring.intervals import Interval
from lamer.learner.measuring.result import ReferenceFigure, RunResult
from lamer.learner.measuring.summary import throughput, write_summary

FINAL = EvaluationResult(
    name="final",
    policy_version=120,
    n=700,
    failed=0,
    pass_at=(0.2, 0.6, 0.99),
    valid_action_rate=0.999,
    mean_turns=2.2,
    mean_response_tokens=5.0,
    first_action_entropy=0.1,
    sampling=Sampling(0.7, 1.0, 0, 8, 8),
    seconds=10.0,
)
INITIAL = replace(FINAL, name="initial", policy_version=0, pass_at=(0.2, 0.36, 0.49), first_action_entropy=1.6)
RESULT = RunResult(
    run="doors-001",
    exit_code=0,
    updates=120,
    policy_version=120,
    evaluations=(INITIAL, FINAL),
    references=(ReferenceFigure("best_policy", (0.2, 0.6, 1.0)),),
    warmstart=(Metric("warmstart/loss", 0.43), Metric("model/parameters", 195744.0)),
    seconds=100.0,
    training_seconds=60.0,
    trials=28800,
    response_tokens=300000,
    drops=(Metric("stale", 3.0),),
    dropped_trials=48,
    dropped_solved=7,
    staleness_max=2,
    resumed_from=None,
)


def written(path: Path, result: RunResult) -> dict[str, object]:
    write_summary(path, result, Settings(), Path("models") / "pocket")
    tree = json.loads(path.read_text())
    assert isinstance(tree, dict)
    return tree


def test_the_summary_names_what_a_reader_looks_for(tmp_path: Path) -> None:
    tree = written(tmp_path / "summary.json", RESULT)
    evaluation, warm_start = tree["evaluation"], tree["warm_start"]
    assert isinstance(evaluation, dict)
    assert isinstance(warm_start, dict)
    assert [evaluation[f"pass@{k}"] for k in (1, 2, 3)] == [0.2, 0.6, 0.99]
    assert evaluation["n"] == 700
    assert evaluation["sampling"]["temperature"] == 0.7
    assert warm_start["pass@3"] == 0.49
    assert warm_start["first_action_entropy"] == 1.6
    assert warm_start["warmstart_loss"] == 0.43
    assert tree["reference"] == {"best_policy": {"pass@1": 0.2, "pass@2": 0.6, "pass@3": 1.0}}
    assert tree["drops"] == {"stale": 3}
    assert (tree["policy_versions"], tree["updates"], tree["trials"], tree["tokens"]) == (121, 120, 28800, 300000)
    assert tree["config_hash"] == config_hash(Settings())


def test_the_summary_holds_intervals_diversity_and_what_was_asked(tmp_path: Path) -> None:
    diversity = Diversity(nats=0.7, interval=Interval(0.6, 0.8), distinct=2.0, tasks=2, rollouts=4.0)
    final = replace(
        FINAL,
        intervals=(Interval(0.17, 0.23), Interval(0.56, 0.64), Interval(0.98, 1.0)),
        rounds=4,
        memory=MemoryMode.NONE,
        trial_diversity=diversity,
        outcomes=(TaskOutcome(0, 2**30, (0, None)), TaskOutcome(1, 2**30 + 1, (), failed=2)),
    )
    evaluation = written(tmp_path / "summary.json", replace(RESULT, evaluations=(final,)))["evaluation"]
    assert isinstance(evaluation, dict)
    assert evaluation["intervals"] == {"pass@1": [0.17, 0.23], "pass@2": [0.56, 0.64], "pass@3": [0.98, 1.0]}
    assert (evaluation["rounds"], evaluation["tasks"], evaluation["memory"]) == (4, 1, "none")
    assert (evaluation["trial_diversity"], evaluation["first_episode_diversity"]) == (0.7, None)
    assert "outcomes" not in evaluation, "those are in evaluations/final.json"


def test_versions_measured_during_training_are_listed_by_update(tmp_path: Path) -> None:
    middle = replace(FINAL, name="update-40", policy_version=40, pass_at=(0.2, 0.5, 0.7))
    tree = written(tmp_path / "summary.json", replace(RESULT, evaluations=(INITIAL, middle, FINAL)))
    assert tree["measured"] == {"40": {"pass@1": 0.2, "pass@2": 0.5, "pass@3": 0.7}}


def test_throughput_is_over_the_training_time_and_the_updates_that_it_took() -> None:
    assert throughput(RESULT).trials_per_second == pytest.approx(480.0)
    assert throughput(RESULT).updates_per_minute == pytest.approx(120.0)
    assert throughput(replace(RESULT, counted_from=60)).updates_per_minute == pytest.approx(60.0)
    assert throughput(replace(RESULT, training_seconds=0.0)).trials_per_second == 0.0


def test_a_run_without_evaluations_has_a_summary_too(tmp_path: Path) -> None:
    tree = written(tmp_path / "summary.json", replace(RESULT, evaluations=(), warmstart=(), references=()))
    assert tree["evaluation"] is None
    assert tree["warm_start"] == {}
    assert tree["reference"] == {}


def test_an_earlier_summary_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    written(tmp_path / "summary.json", RESULT)
    tree = written(tmp_path / "summary.json", replace(RESULT, updates=121))
    assert tree["updates"] == 121
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
