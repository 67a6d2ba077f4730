"""Batches that the trainer can't train: tried twice, then set aside by name; the run goes on, or ends naming them."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lamer.common.errors import RunFailed
from lamer.common.messages import Batch, BatchFailed, BatchRequest, Lease, Published, Role
from lamer.common.records import Trial
from lamer.common.settings import BatchSettings
from lamer.learner.gateway.batching import MOST_SET_ASIDE
from lamer.learner.gateway.checking.rules import TrialRules
from lamer.learner.journal.reader import read_batch
from lamer.learner.measuring.result import RunResult
from lamer.learner.trainer.trainer import TrainerOptions, run_trainer
from tests.learner.builders import write_model
from tests.learner.gateway.test_poisoned_trials import with_turn
from tests.learner.scripted import FILES, TIMEOUT, Actor, Host, Run, Trainer, make_run, make_trial, play_at_once

BATCH = BatchSettings(groups=1, group_size=2, updates=3, max_staleness=1)


@dataclass
class Failing(Trainer):
    """Fails on every batch with one of these groups, and goes back to `checkpoint` after each failure."""

    groups: Collection[int] = ()
    checkpoint: int = 0
    failed: list[int] = field(default_factory=list)

    async def train(self, batch: Batch) -> None:
        trials = read_batch(self.run_dir / "journal.db", batch.step)
        if not any(trial.group_id in self.groups for trial in trials):
            await super().train(batch)
            return
        self.failed.append(batch.step)
        self.version = self.checkpoint
        await self.session.send(BatchFailed(batch.step, "the loss is nan"))
        if self.version > 0:
            await self.session.send(Published(self.version, f"weights/v{self.version}", FILES))
        await self.session.send(BatchRequest(self.version))


async def play(run: Run, groups: Collection[int], checkpoint: int = 0) -> tuple[RunResult, Failing]:
    async with asyncio.timeout(TIMEOUT):
        running = asyncio.create_task(run.gateway())
        async with (
            run.session(Role.ACTOR, capacity=2) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            trainer = Failing(t, run.plan.run_dir, checkpoint, groups=groups, checkpoint=checkpoint)
            await asyncio.gather(Actor(a).run(), Host(h).run(), trainer.run())
        return await running, trainer


def rows(run: Run, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(run.plan.run_dir / "journal.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_a_batch_that_fails_twice_is_set_aside_by_name_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path, batch=BATCH)
    result, trainer = await play(run, groups={1})
    assert trainer.failed == [2, 2]
    assert (result.exit_code, result.updates) == (0, 3)
    assert [(drop.name, drop.value) for drop in result.drops] == [("batch_failed", 1.0)]
    assert rows(run, "SELECT DISTINCT group_id, reason FROM drops") == [(1, "batch_failed")]
    assert rows(run, "SELECT DISTINCT state, step FROM trials WHERE group_id = 1") == [("dropped", None)]
    assert rows(run, "SELECT step, group_id FROM trials WHERE step IS NOT NULL GROUP BY 1 ORDER BY 1") == [
        (1, 0),
        (2, 2),
        (3, 3),
    ]
    assert "the trainer failed on the batch of update 2, groups [1]: the loss is nan" in caplog.text
    assert "groups [1] are set aside" in caplog.text
    assert '"drops/batch_failed": 1.0' in (run.plan.run_dir / "metrics.jsonl").read_text().splitlines()[-1]


async def test_a_run_whose_batches_all_fail_ends_naming_them_and_resumes_without_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BATCH)
    groups = range(MOST_SET_ASIDE)
    with pytest.raises(
        RunFailed, match=r"update 1, groups 0; update 1, groups 1; update 1, groups 2\).*the loss is nan"
    ):
        await play(run, groups)
    resumed = make_run(tmp_path, resume_step=0, batch=BATCH)
    result, trainer = await play(resumed, groups)
    assert (result.exit_code, result.updates, trainer.failed) == (0, 3, [])
    assert [(drop.name, drop.value) for drop in result.drops] == [("batch_failed", float(MOST_SET_ASIDE))]


async def test_batches_set_aside_between_others_end_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(groups=1, group_size=1, updates=6, max_staleness=1))
    result, trainer = await play(run, {1, 3, 5, 7})
    assert (result.exit_code, result.updates, len(trainer.failed)) == (0, 6, 8)


async def test_the_real_trainer_gives_a_poisoned_batch_up_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reward that is no number, from a journal that an older gateway wrote; it is the batch that is blamed."""
    monkeypatch.setattr(TrialRules, "problem", lambda *_: "")

    def poisoned(lease: Lease, version: int) -> Trial:
        trial = play_at_once(lease, version)
        return with_turn(make_trial(lease, version), reward=math.nan) if lease.group_id == 0 else trial

    run = make_run(tmp_path, batch=BATCH)
    for file in write_model(tmp_path / "written").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    async with asyncio.timeout(5 * TIMEOUT):
        running = asyncio.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=2) as a, run.session(Role.HOST) as h:
            options = TrainerOptions(await run.url(), run.keys(Role.TRAINER), run.plan.run_dir)
            codes = await asyncio.gather(Actor(a, poisoned).run(), Host(h).run(), run_trainer(options))
        result = await running
    assert codes == [0, 0, 0]
    assert (result.updates, [(drop.name, drop.value) for drop in result.drops]) == (3, [("batch_failed", 1.0)])
    assert "trial test-1/train/0/0 can't be trained: a reward is nan" in caplog.text
    assert "learning_rate" not in caplog.text
