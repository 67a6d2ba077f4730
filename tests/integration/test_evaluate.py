"""`lamer eval` of a model that `lamer train` made, every process real: other memory, more episodes, other tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.common.records import Purpose, Trial
from lamer.learner.journal.reader import JournalReader, TrialFilter
from lamer.learner.measuring.evaluation import read_evaluations
from tests.integration.processes import TINY, Started, updates

pytestmark = pytest.mark.timeout(300)
Lamer = Callable[..., Started]


def evaluated(run: Path) -> list[Trial]:
    """The evaluation trials in a run's journal, by play."""
    reader = JournalReader(run / "journal.db")
    trials = [reader.trial(row.trial_id)[1] for row in reader.rows(TrialFilter(limit=100_000)) if row.step is None]
    return sorted(
        (trial for trial in trials if trial.purpose is Purpose.EVALUATE), key=lambda trial: (trial.group_id, trial.slot)
    )


@pytest.fixture
def run(folder: Path, train: Lamer) -> Path:
    """A run of four updates, measured at update 2 and at both ends; made by the first test that asks."""
    path = folder / "runs" / "measured"
    if not path.exists():
        process = train("measured", "evaluation.every=2", "evaluation.rounds=2")
        assert process.wait() == 0, process.text
    return path


def test_training_is_measured_at_both_ends_and_between_by_one_version_each(run: Path) -> None:
    results = read_evaluations(run)
    assert [(one.name, one.policy_version, one.n, one.tasks) for one in results] == [
        ("initial", 0, 24, 12),
        ("update-2", 2, 24, 12),
        ("final", 4, 24, 12),
    ]
    for trial in evaluated(run):
        versions = {span.version for part in trial.completions() for span in part.versions}
        assert versions == {trial.slot}
    assert [line.step for line in updates(run)] == [1, 2, 3, 4]
    assert list(json.loads((run / "summary.json").read_text())["measured"]) == ["2"]
    assert {"evaluation.png", "evaluation_curve.png"} <= {path.name for path in (run / "figures").iterdir()}


def test_independent_attempts_are_independent_and_may_be_more_than_in_training(
    folder: Path, run: Path, lamer: Lamer
) -> None:
    """Five attempts at doors with five doors, of a model trained on two episodes of three doors, three rounds."""
    process = lamer(
        *("eval", str(run), "-c", str(TINY), "--name", "independent", "--plain", "env.options.doors=5"),
        *("evaluation.memory=none", "evaluation.episodes=5", "evaluation.rounds=3", "evaluation.tasks=8"),
    )
    assert process.wait() == 0, process.text
    trials = evaluated(folder / "runs" / "independent")
    assert len(trials) == 24
    assert {trial.task.seed - 2**30 for trial in trials} == set(range(8))
    assert max(len(trial.episodes) for trial in trials) > 2, "some trial went on after the attempts of training"
    assert not any(trial.reflections for trial in trials)
    prompts = {tuple(e.turns[0].completion.prompt_ids.tolist()) for trial in trials for e in trial.episodes}
    assert len(prompts) == 1, "every attempt starts from the same clean prompt"

    (result,) = read_evaluations(folder / "runs" / "independent")
    assert (result.rounds, result.tasks, result.n, len(result.pass_at)) == (3, 8, 24, 5)
    assert list(result.pass_at) == sorted(result.pass_at)
    for share, interval in zip(result.pass_at, result.intervals, strict=True):
        assert 0.0 <= interval.low <= share <= interval.high <= 1.0
    assert result.trial_diversity is not None
    assert 0.0 < result.trial_diversity.nats <= math.log(3) + 1e-9, "three rollouts of a task"
    assert json.loads(result.env_config)["doors"] == 5
    for word in ("pass@5", "diversity", "memory none", "8 tasks x 3 rounds"):
        assert word in process.text


def test_weights_can_be_evaluated_with_memory_over_more_episodes_than_they_were_trained_on(
    folder: Path, run: Path, lamer: Lamer
) -> None:
    process = lamer(
        *("eval", str(run / "model"), "-c", str(TINY), "--name", "with-memory", "--plain"),
        *("trial.memory=none", "trial.episodes=1"),
        *("evaluation.memory=both", "evaluation.episodes=4", "evaluation.tasks=8"),
    )
    assert process.wait() == 0, process.text
    trials = evaluated(folder / "runs" / "with-memory")
    long = [trial for trial in trials if len(trial.episodes) >= 3]
    assert long, "no trial came to a third episode"
    for trial in long:
        assert len(trial.reflections) >= 2
        lengths = [len(episode.turns[0].completion.prompt_ids) for episode in trial.episodes]
        assert lengths == sorted(set(lengths)), "every prompt shows one attempt more"
    summary = json.loads((folder / "runs" / "with-memory" / "summary.json").read_text())
    assert (summary["evaluation"]["memory"], summary["updates"]) == ("both", 0)
    assert "pass@4" in summary["evaluation"]["intervals"]
