"""`lamer train` on one machine: every process real, on a task of a few seconds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lamer.learner.journal.reader import read_batch
from tests.integration.processes import Started, count, last_step, updates, wait_until

pytestmark = pytest.mark.timeout(300)
Train = Callable[..., Started]


def test_a_synchronous_run_trains_on_its_own_version_and_a_plain_loop_gives_the_same_parameters(
    folder: Path, train: Train
) -> None:
    """max_staleness 0: every token's version is the version trained from, and replaying the journal is bit-equal."""
    process = train("sync", "batch.max_staleness=0")
    assert process.wait() == 0, process.text
    run = folder / "runs" / "sync"

    for step in range(1, 5):
        trials = read_batch(run / "journal.db", step)
        assert len(trials) == 3 * 4
        versions = {span.version for trial in trials for part in trial.completions() for span in part.versions}
        assert versions == {step - 1}

    replayed = _replay(run, folder / "replayed")
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
    from lamer.common import config
    from lamer.learner.trainer.replay import replay
    from lamer.learner.trainer.update import PolicyUpdater

    settings = config.load([run / "config.yaml"])
    model = Path(json.loads((run / "summary.json").read_text())["model"])
    updater = PolicyUpdater(settings, model)
    replay((read_batch(run / "journal.db", step) for step in range(1, settings.batch.updates + 1)), updater)
    updater.save_weights(output)
    return load_file(output / "model.safetensors")


def test_a_finished_run_is_not_overwritten_and_can_be_made_longer_but_not_another_or_shorter(
    folder: Path, train: Train
) -> None:
    run = folder / "runs" / "longer"
    first = train("longer", "batch.updates=3")
    assert first.wait() == 0, first.text

    again = train("longer", "batch.updates=3")
    assert (again.wait(), "--resume" in again.error) == (2, True)
    other = train("longer", "batch.updates=3", "optimizer.learning_rate=0.5", "--resume")
    assert (other.wait(), "optimizer.learning_rate" in other.error) == (2, True)
    shorter = train("longer", "batch.updates=2", "--resume")
    assert (shorter.wait(), "can be raised, not lowered" in shorter.error) == (2, True)

    longer = train("longer", "batch.updates=6", "--resume")
    assert longer.wait() == 0, longer.text
    assert [line.step for line in updates(run)] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "summary.json").read_text())["evaluation"]["policy_version"] == 6
    assert max(line.metrics["staleness/max"] for line in updates(run)) <= 2


def test_ctrl_c_while_training_saves_the_last_update_and_the_command_that_is_shown_goes_on_from_it(
    folder: Path, train: Train, lamer: Train
) -> None:
    run = folder / "runs" / "interrupted"
    process = train("interrupted", "batch.updates=500", "trainer.checkpoint_every=1000")
    wait_until(lambda: len(updates(run)) >= 5, lambda: process.text)
    assert process.interrupted() == 130, process.text
    trained = last_step(run)
    assert f"Go on from update {trained} with: lamer train --config" in process.text

    again = lamer(*command_to_go_on(process.text))
    wait_until(lambda: last_step(run) >= trained + 3, lambda: again.text)
    assert again.interrupted() == 130, again.text
    assert went_on_from(run) == [trained], "no update is trained twice"
    assert_reads_as_one_run(run)


def command_to_go_on(text: str) -> list[str]:
    """What a run that was interrupted tells to type, without `lamer`."""
    (command,) = re.findall(r"^Go on from .* with: lamer (.*)$", text, re.MULTILINE)
    return shlex.split(command)


def went_on_from(run: Path) -> list[int]:
    """The policy versions from which the run's trainers have gone on."""
    found = re.findall(r"going on from .*, policy version (\d+)", (run / "logs" / "trainer.log").read_text())
    return [int(version) for version in found]


def assert_reads_as_one_run(run: Path) -> None:
    """The record of a resumed run has every update once, and what is counted never falls."""
    lines = updates(run)
    assert [line.step for line in lines] == list(range(1, len(lines) + 1))
    for name in ("run/seconds", "run/training_seconds", "rollout/trials", "drops/groups"):
        values = [line.metrics[name] for line in lines]
        assert values == sorted(values), name
    rates = [line.metrics.get("rollout/trials_per_second", 1.0) for line in lines]
    assert min(rates) > 0.0


def test_ctrl_c_in_an_evaluation_or_before_the_first_checkpoint_is_due_can_be_resumed(
    folder: Path, train: Train
) -> None:
    run = folder / "runs" / "early"
    arguments = ("early", "evaluation.tasks=600", "trainer.checkpoint_every=1000", "batch.updates=1000")
    first = train(*arguments)
    wait_until(lambda: count(run, "trials WHERE purpose = 'evaluate'") > 0, lambda: first.text)
    assert first.interrupted() == 130, first.text
    evaluated = count(run, "trials WHERE purpose = 'evaluate'")
    assert 0 < evaluated < 600
    assert updates(run) == []

    second = train(*arguments, "--resume")
    wait_until(lambda: last_step(run) >= 3, lambda: second.text)
    assert second.interrupted() == 130, second.text
    assert count(run, "trials WHERE purpose = 'evaluate'") == 600
    trained = last_step(run)

    third = train(*arguments, "--resume")
    wait_until(lambda: last_step(run) > trained, lambda: third.text)
    assert third.interrupted() == 130, third.text
    assert went_on_from(run) == [trained]
    assert_reads_as_one_run(run)


def test_ctrl_c_while_the_model_is_created_leaves_no_process_and_no_half_made_model(folder: Path, train: Train) -> None:
    process = train("creating", "run.seed=77", "model.warmstart.steps=100000", "optimizer.learning_rate=1e-6")
    log = folder / "runs" / "creating" / "logs" / "learner.log"
    wait_until(lambda: log.exists() and "lamer.warmstart: creating" in log.read_text(), lambda: process.text)
    models = folder / ".cache" / "lamer" / "models"
    wait_until(lambda: any(models.glob(".creating-*/created/model.safetensors")), log.read_text)
    assert process.interrupted() == 130, process.text
    assert "creating the pocket model for doors" in process.text
    assert "warning: optimizer.learning_rate is 1e-06" in process.text, "told before anything is waited for"
    assert list(models.glob(".creating-*")) == []
