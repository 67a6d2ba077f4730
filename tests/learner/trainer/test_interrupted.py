"""A trainer that is told to end early, in a run of a real gateway: what it saves, and that the gateway hears of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from lamer.common.messages import Role
from lamer.common.settings import OptimizerSettings, TrainerSettings
from lamer.learner.gateway import gateway
from lamer.learner.gateway.gateway import run_gateway
from lamer.learner.measuring.result import RunResult
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.objective import Minibatch, Objective
from lamer.learner.trainer.trainer import TrainerOptions, run_trainer
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import write_model
from tests.learner.scripted import Actor, Run, make_run

NEVER = TrainerSettings(device="cpu", checkpoint_every=1000, parity_responses=0)


async def interrupted_in_update_2(run: Run, monkeypatch: pytest.MonkeyPatch, *, before_any_step: bool) -> RunResult:
    """A run that is interrupted in its second update, before its first or its second optimizer step."""
    loop, step_of, ended = asyncio.get_running_loop(), PolicyUpdater._step, asyncio.Event()

    def step(self: PolicyUpdater, step: int, batch: Minibatch, objective: Objective, *, is_first: bool) -> float:
        if step == 2 and is_first is before_any_step:
            loop.call_soon_threadsafe(run.stop.set)
            assert self._is_given_up.wait(60.0)
        return step_of(self, step, batch, objective, is_first=is_first)

    monkeypatch.setattr(PolicyUpdater, "_step", step)
    monkeypatch.setattr(gateway, "GOODBYE_SECONDS", 0.5)
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        result = tasks.create_task(run_gateway(run.plan, run.stop, ended))
        tasks.create_task(run.host())
        async with run.session(Role.ACTOR, capacity=4) as session:
            acting = tasks.create_task(Actor(session).run())
            assert await run_trainer(TrainerOptions(await run.url(), run.keys(Role.TRAINER), run.plan.run_dir)) == 130
            ended.set()
            await acting
    return result.result()


def make_trained_run(folder: Path) -> Run:
    run = make_run(folder, trainer=NEVER, optimizer=OptimizerSettings(minibatches=2))
    shutil.rmtree(folder / "model")
    write_model(folder / "model")
    return run


async def test_an_update_that_has_begun_to_change_the_policy_is_ended_reported_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint takes longer than the gateway waits for the Goodbyes of others."""
    save = PolicyUpdater.save_checkpoint
    slow = asyncio.Event()
    loop = asyncio.get_running_loop()

    def save_slowly(self: PolicyUpdater, folder: Path) -> Path:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1.5), loop).result()
        loop.call_soon_threadsafe(slow.set)
        return save(self, folder)

    monkeypatch.setattr(PolicyUpdater, "save_checkpoint", save_slowly)
    run = make_trained_run(tmp_path)
    result = await interrupted_in_update_2(run, monkeypatch, before_any_step=False)
    assert slow.is_set()
    assert [step for step, _ in run.tracker.logged] == [1, 2]
    assert (result.exit_code, result.updates, result.policy_version) == (130, 2, 2)
    assert checkpoint.latest(run.plan.run_dir) == checkpoint.folder(run.plan.run_dir, 2)
    assert checkpoint.read_state(checkpoint.folder(run.plan.run_dir, 2)).policy_version == 2


async def test_an_update_that_has_not_changed_the_policy_is_given_up_and_the_version_before_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_trained_run(tmp_path)
    result = await interrupted_in_update_2(run, monkeypatch, before_any_step=True)
    assert [step for step, _ in run.tracker.logged] == [1]
    assert (result.exit_code, result.updates, result.policy_version) == (130, 1, 1)
    assert checkpoint.latest(run.plan.run_dir) == checkpoint.folder(run.plan.run_dir, 1)
