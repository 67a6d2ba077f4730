"""kill -9 of every part of a live run: the run goes on, no trial is trained twice or lost, and nothing outlives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.learner.journal.reader import read_batch
from tests.integration.processes import Started, are_gone, count, last_step, updates, wait_until

pytestmark = pytest.mark.timeout(300)
Train = Callable[..., Started]
ENDLESS = "batch.updates=100000"


def check_journal(run: Path) -> None:
    """Every update has a whole batch of its own, none of it too old; no group was lost on the way."""
    last = last_step(run)
    batches = [read_batch(run / "journal.db", step) for step in range(1, last + 1)]
    trial_ids = [trial.trial_id for batch in batches for trial in batch]
    assert len(set(trial_ids)) == len(trial_ids) == last * 3 * 4
    assert all(step - 1 - trial.oldest_version <= 2 for step, batch in enumerate(batches, 1) for trial in batch)
    assert count(run, "groups WHERE is_dropped") == 0
    trained = sorted({trial.group_id for batch in batches for trial in batch})
    left_behind = set(range(trained[-1])) - set(trained)
    assert len(left_behind) <= 3 * 3, f"groups {sorted(left_behind)} were passed over"  # (1 + max_staleness) batches


def test_killed_parts_are_started_again_and_the_run_goes_on(folder: Path, train: Train) -> None:
    run = folder / "runs" / "killed"
    process = train("killed", ENDLESS)
    wait_until(lambda: last_step(run) >= 3, lambda: process.text)
    for part in ("actor", "lamer.deploy.inference.embedded", "lamer.learner.trainer", "serve"):
        victim, before = process.part(part), len(updates(run))
        victim.kill()
        assert are_gone([victim])
        wait_until(lambda lines=before: len(updates(run)) >= lines + 12, lambda: process.text)  # type: ignore[misc]
    assert process.interrupted() == 130, process.text
    assert "actor-1 was killed by SIGKILL: started again" in process.text
    assert "server-1 was killed by SIGKILL: started again" in process.text
    check_journal(run)


def test_a_killed_learner_ends_the_run_and_a_killed_supervisor_too_and_both_can_be_resumed(
    folder: Path, train: Train
) -> None:
    run = folder / "runs" / "orphans"
    first = train("orphans", ENDLESS)
    wait_until(lambda: last_step(run) >= 3, lambda: first.text)
    below = first.descendants()
    assert len(below) == 5  # learner, trainer, host, engine, actor
    first.part("learner").kill()
    assert first.wait(20.0) == 1, first.text
    assert "SIGKILL" in first.error
    assert are_gone(below)

    lines = len(updates(run))
    second = train("orphans", ENDLESS, "--resume")
    wait_until(lambda: len(updates(run)) >= lines + 3, lambda: second.text)
    below = second.descendants()
    second.process.kill()
    second.process.wait()
    assert are_gone(below)

    steps = [line.step for line in updates(run)]
    assert steps == list(range(1, len(steps) + 1)), "no update stands twice in the record, and none is missing"
    check_journal(run)
