"""The learner's processes: the gateway in this one, the trainer as its child.

    run_learner    keys and model -> gateway, beside the trainer and a view of the run -> summary
    TrainerKeeper  starts the trainer once the gateway listens, and again from the last checkpoint when it dies

The run folder's lock is held for as long as this goes on, so that no two learners write one journal.

Interrupted (SIGINT, SIGTERM), the trainer may have a checkpoint to write, of tens of gigabytes: it is waited for as
long as its own watchdog lets it work, and the gateway hears its last report. A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lamer.common.errors import BadInput, LamerError, Missing, OutOfMemory, RunFailed
from lamer.common.keys import ensure_keys, load_client_keys, load_server_keys, write_trainer_keys
from lamer.common.liveness.restarts import Clock, Restarts
from lamer.common.messages import Role
from lamer.deploy.run import processes
from lamer.deploy.run.folder import RunFolder, locked
from lamer.deploy.run.journal import checkpoint_without_journal
from lamer.deploy.run.observer import View, follow
from lamer.deploy.run.supervisor import ENDING, INTERRUPTED, first_error, how_it_ended
from lamer.deploy.run.trainer_ranks import TrainerRanks

if TYPE_CHECKING:
    from lamer.common.settings import Settings
    from lamer.deploy.models.preparation import PreparedModel
    from lamer.learner.gateway.plan import GatewayPlan
    from lamer.learner.measuring.result import RunResult
    from lamer.learner.measuring.tracking import Tracker

log = logging.getLogger("lamer.learner")

MAX_TRAINER_RESTARTS = 3
TRAINER_END_SECONDS = 60.0
ADDRESS_POLL_SECONDS = 0.02
OBSERVER_SECONDS = 30.0
_FINAL: Mapping[int, type[LamerError]] = {
    BadInput.exit_code: BadInput,
    Missing.exit_code: Missing,
    OutOfMemory.trainer_code: OutOfMemory,
}
"""Exit codes of a trainer that would end the same way again."""


def run_learner(run: RunFolder, view: View) -> int:
    """Prepare the model and train; 0, or 130 when interrupted, at once when that happens twice.

    Raises:
        LamerError: the model can't be made or used, the port is taken, the trainer keeps dying, another learner is at
            work in the folder.
    """
    from lamer.deploy.models.preparation import creation_note, default_cache, prepare_model
    from lamer.deploy.models.suitability import unsuited

    for warning in unsuited(run.settings):
        view.note(f"warning: {warning}")
    cache = default_cache(run.settings)
    with locked(run):
        ensure_keys(run.keys)
        note, began = creation_note(run.settings, cache), time.monotonic()
        if note:
            view.note(note)
        prepared = prepare_model(run.settings, cache)
        if note:
            view.note(f"created the model in {time.monotonic() - began:.0f} s")
        try:
            return asyncio.run(_learn(run, prepared, view))
        except asyncio.CancelledError:  # by a second signal
            return INTERRUPTED


def trainer_patience(settings: Settings) -> float:
    """Seconds that an interrupted trainer may take to end an update that has begun and to save it."""
    return settings.trainer.watchdog_seconds + TRAINER_END_SECONDS


class TrainerKeeper:
    """Keeps the trainer's processes running; their output goes to the run's logs/trainer.log, trainer-1.log, ..."""

    def __init__(self, run: RunFolder, clock: Clock | None = None) -> None:
        self._run = run
        self._clock = clock or Clock()
        self._ranks: TrainerRanks | None = None
        self._is_ending = False

    async def keep(self) -> None:
        """Run the trainer until it ends on purpose.

        Raises:
            LamerError: it can't be used (exit code 2, 3 or 4), or died too often.
        """
        restarts = Restarts(MAX_TRAINER_RESTARTS)
        while not self._is_ending:
            command, gpus = await self._command(), self._run.settings.trainer.gpus
            self._ranks = await TrainerRanks.start(command, gpus, self._run.logs)
            restarts.started(self._clock.now())
            ended = await self._ranks.ended()
            if ended.code == 0 or self._is_ending:
                return
            kind, how = _FINAL.get(ended.code), how_it_ended(ended.code)
            wait = restarts.ended(self._clock.now())
            if wait is None or kind is not None:
                said = processes.last_error(ended.log, ended.start) or how
                raise (kind or RunFailed)(f"{said} ({ended.name}, {how}; its output: {ended.log})")
            times = f"restart {restarts.used} of {restarts.most}"
            log.warning("the %s %s: %s in %g s", ended.name, how, times, wait)
            await self._clock.sleep(wait)

    async def end(self, grace: float, ask: signal.Signals | None) -> None:
        """Let the trainer end within `grace` seconds (rank 0 asked by the signal `ask`, if any), then kill it."""
        self._is_ending = True
        if self._ranks is None or not self._ranks.is_up:
            return
        ended = await self._ranks.end(grace, ask)
        if grace and ended.code not in (0, INTERRUPTED, -signal.SIGINT):  # the last one: it had not begun
            said = processes.last_error(ended.log) if ended.code > 0 else ""
            how = how_it_ended(ended.code)
            log.warning("the %s %s when the run ended: %s (its output: %s)", ended.name, how, said, ended.log)

    async def _command(self) -> tuple[str, ...]:
        """The command line of every rank of the trainer, once the gateway listens."""
        url, trainer = await _address(self._run), self._run.settings.trainer
        folders = ("--keys", str(self._run.trainer_keys), "--run-dir", str(self._run.path))
        ranked = ("--device", trainer.device, "--collective-seconds", str(trainer.collective_seconds))
        return (sys.executable, "-P", "-m", "lamer.learner.trainer", "--connect", url, *folders, *ranked)


async def _learn(run: RunFolder, prepared: PreparedModel, view: View) -> int:
    from lamer.learner.measuring.summary import write_summary

    stop = asyncio.Event()
    _handle_signals(stop, view)
    run.address.unlink(missing_ok=True)  # left by a learner that was killed
    plan, tracker = _plan(run, prepared)
    write_trainer_keys(run.trainer_keys, plan.keys)
    tracker.start()
    status, lost = "FAILED", ""
    try:
        result = await _gateway_and_trainer(run, plan, stop, view)
        write_summary(run.summary, result, run.settings, prepared.path)
        status = "FINISHED" if result.exit_code == 0 else "KILLED"
    except asyncio.CancelledError:
        status = "KILLED"
        raise
    finally:
        lost = await asyncio.to_thread(tracker.finish, status)
        if lost:
            log.warning("tracking was lost: %s", lost)
    if lost:
        write_summary(run.summary, result, run.settings, prepared.path, lost)
    return result.exit_code


def _handle_signals(stop: asyncio.Event, view: View) -> None:
    """SIGINT and SIGTERM end the run in an orderly way, the second of them this task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def handle() -> None:
        if stop.is_set():
            task.cancel()
            return
        view.note(ENDING)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle)


async def _gateway_and_trainer(run: RunFolder, plan: GatewayPlan, stop: asyncio.Event, view: View) -> RunResult:
    from lamer.learner.gateway.gateway import run_gateway

    keeper = TrainerKeeper(run)
    trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    trainer_ended = asyncio.Event()

    async def train() -> None:
        """Keep the trainer; when it can't be kept, the run fails with it, and everybody is told so."""
        try:
            await keeper.keep()
        except LamerError as error:
            trouble.set_exception(error)

    async def end_trainer_on_stop() -> None:
        await stop.wait()
        await keeper.end(trainer_patience(run.settings), signal.SIGINT)
        trainer_ended.set()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(end_trainer_on_stop()), group.create_task(_watch(run, view))]
            if run.settings.batch.updates > 0:
                tasks.append(group.create_task(train()))
            try:
                result = await run_gateway(plan, stop, trainer_ended, trouble)
                await keeper.end(TRAINER_END_SECONDS, None)
            finally:
                for task in tasks:
                    task.cancel()
    except* LamerError as errors:
        raise first_error(errors) from None
    finally:
        await keeper.end(0.0, None)
    if trouble.done():  # while the run was being ended
        trouble.result()
    return result


async def _watch(run: RunFolder, view: View) -> None:
    """Show the run as any observer sees it, over the gateway's socket."""
    url = await _address(run)
    try:
        await follow(url, load_client_keys(run.keys, Role.OBSERVER), view, OBSERVER_SECONDS)
    except LamerError as error:  # the run goes on unseen
        view.note(f"no status from the gateway: {error}")


async def _address(run: RunFolder) -> str:
    """The gateway's URL, once it listens."""
    while not run.address.exists():  # noqa: ASYNC110 -- the gateway's only sign that it listens
        await asyncio.sleep(ADDRESS_POLL_SECONDS)
    return run.address.read_text(encoding="utf-8").strip()


def _plan(run: RunFolder, prepared: PreparedModel) -> tuple[GatewayPlan, Tracker]:
    """What the gateway is started with, and the tracker in it."""
    from lamer.common.weights import read_fingerprint
    from lamer.deploy.run.configuration import evaluation_env_config
    from lamer.envs import registry
    from lamer.learner.gateway.plan import GatewayPlan
    from lamer.learner.measuring.result import ReferenceFigure
    from lamer.learner.measuring.tracking import Tracker

    settings, run_dir = run.settings, run.path.resolve()
    env_config = registry.canonical_config(settings.env.name, settings.env.options)
    evaluation_env = evaluation_env_config(settings)
    known = registry.references(settings.env.name, evaluation_env, settings.evaluation.episodes)
    references = tuple(ReferenceFigure(reference.name, reference.pass_at) for reference in known)
    tracker = Tracker.open(settings, run.name, run_dir, references)
    plan = GatewayPlan(
        settings=settings,
        run=run.name,
        run_dir=run_dir,
        model_path=str(prepared.path.resolve()),
        env_config=env_config,
        evaluation_env_config=evaluation_env,
        keys=load_server_keys(run.keys),
        tracker=tracker,
        references=references,
        warmstart=prepared.metrics,
        resume_step=_resume_step(run),
        mlflow_url=tracker.url,
        fingerprint=read_fingerprint(prepared.path),
    )
    return plan, tracker


def _resume_step(run: RunFolder) -> int | None:
    """The policy version to go on from: the newest whole checkpoint's, 0 before the first one, None for a new run.

    Raises:
        BadInput: the run has come further than `batch.updates`, or holds a checkpoint without its journal.
    """
    if problem := checkpoint_without_journal(run.path):
        raise BadInput(problem)
    if not (run.path / "journal.db").exists():
        return None
    from lamer.learner.trainer import checkpoint

    latest = checkpoint.latest(run.path)
    step = 0 if latest is None else int(latest.name.rpartition("-")[2])
    updates = run.settings.batch.updates
    if 0 < updates < step:
        raise BadInput(f"{run.path} holds {step} updates, batch.updates is {updates}: it can be raised, not lowered")
    return step
