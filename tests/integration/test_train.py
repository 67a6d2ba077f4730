"""`lamer train` on one machine: every process real, on a task of a few seconds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from learner import journal
from tests.integration.processes import TINY, Started, start, updates, wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def started() -> Iterator[list[Started]]:
    """Processes to be ended after the test, whatever happened."""
    processes: list[Started] = []
    yield processes
    for process in processes:
        process.end()


def train(folder: Path, started: list[Started], *arguments: str) -> Started:
    process = start(["train", "-c", str(TINY), "--name", "tiny", "--plain", *arguments], folder, f"train{len(started)}")
    started.append(process)
    return process


def test_a_synchronous_run_trains_on_its_own_version_and_a_plain_loop_gives_the_same_parameters(
    tmp_path: Path, started: list[Started]
) -> None:
    """max_staleness 0: every token's version is the version trained from, and replaying the journal is bit-equal."""
    process = train(tmp_path, started, "batch.max_staleness=0")
    assert process.wait() == 0, process.text
    run = tmp_path / "runs" / "tiny"

    batches = [journal.read_batch(run / "journal.db", step) for step in range(1, 5)]
    for step, trials in enumerate(batches, start=1):
        assert len(trials) == 3 * 4
        versions = {span.version for trial in trials for part in trial.completions() for span in part.versions}
        assert versions == {step - 1}

    replayed = _replay(run, tmp_path / "replayed")
    live = load_file(run / "model" / "model.safetensors")
    assert live.keys() == replayed.keys()
    for name, tensor in live.items():
        np.testing.assert_array_equal(tensor, replayed[name], err_msg=name)

    gaps = [line.metrics["engine/logprob_gap_max"] for line in updates(run)]
    assert len(gaps) == 4
    assert max(gaps) <= 1e-4

    summary = json.loads((run / "summary.json").read_text())
    assert summary["evaluation"]["n"] == 12
    assert 0.0 <= summary["evaluation"]["pass@1"] <= summary["evaluation"]["pass@2"] <= 1.0
    assert summary["updates"] == 4


def _replay(run: Path, output: Path) -> dict[str, np.ndarray]:
    """The parameters that a plain loop over the recorded trials gives, from the run's version 0."""
    from common import config
    from learner.replay import replay
    from learner.update import PolicyUpdater

    settings = config.load([run / "config.yaml"])
    model = Path(json.loads((run / "summary.json").read_text())["model_path"])
    updater = PolicyUpdater(settings, model)
    replay((journal.read_batch(run / "journal.db", step) for step in range(1, settings.batch.updates + 1)), updater)
    updater.save_weights(output)
    return load_file(output / "model.safetensors")


def test_ctrl_c_ends_every_process_and_resume_goes_on_from_the_checkpoint(
    tmp_path: Path, started: list[Started]
) -> None:
    run = tmp_path / "runs" / "tiny"
    process = train(tmp_path, started, "batch.updates=200")
    wait_until(lambda: len(updates(run)) >= 5, lambda: process.text)
    below = process.descendants()
    process.interrupt()
    assert process.wait(15.0) == 130, process.text
    _, alive = psutil.wait_procs(below, timeout=1.0)
    assert alive == []
    trained = updates(run)[-1].step

    again = train(tmp_path, started, "batch.updates=200", "--resume")
    wait_until(lambda: updates(run)[-1].step >= trained + 3, lambda: again.text)
    again.interrupt()
    assert again.wait(15.0) == 130, again.text
    steps = [line.step for line in updates(run)]
    first_of_resumed = next(later for earlier, later in itertools.pairwise(steps) if later <= earlier)
    assert first_of_resumed % 2 == 1, f"went on at update {first_of_resumed}, not after a checkpoint (every 2)"


def test_a_second_run_in_the_same_folder_and_another_configuration_are_refused(
    tmp_path: Path, started: list[Started]
) -> None:
    first = train(tmp_path, started, "batch.updates=1")
    assert first.wait() == 0, first.text
    second = train(tmp_path, started, "batch.updates=1")
    assert second.wait() == 2
    assert "--resume" in second.text
    other = train(tmp_path, started, "batch.updates=1", "optimizer.learning_rate=0.5", "--resume")
    assert other.wait() == 2
    assert "optimizer.learning_rate" in other.text


def test_a_killed_actor_loses_nothing_but_its_unfinished_trials(tmp_path: Path, started: list[Started]) -> None:
    run = tmp_path / "runs" / "tiny"
    process = train(tmp_path, started, "batch.updates=30")
    wait_until(lambda: len(updates(run)) >= 3, lambda: process.text)
    actor = next(child for child in process.descendants() if "actor" in child.cmdline())
    actor.kill()
    assert process.wait() == 0, process.text
    trained = [trial for step in range(1, 31) for trial in journal.read_batch(run / "journal.db", step)]
    assert len(trained) == 30 * 3 * 4
    assert len({trial.trial_id for trial in trained}) == len(trained)
