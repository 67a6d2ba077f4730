"""The trainer process: batches in, policy versions out. Only wiring; the algorithm is in `learner.trainer.update`.

Where several ranks train one model this is rank 0; what the others do is in `learner.trainer.ranks`.

    Hello -> Welcome -> [checkpoint loaded: Published(k)] -> BatchRequest(v) -> Batch(v + 1)
          -> trials read from the journal -> update -> UpdateReport -> [Checkpointed(n)] -> BatchRequest(n)
          ... until Shutdown; meanwhile weights/v{n} is written -> Published(n), before BatchRequest(n + 1)
    a batch that can't be trained -> BatchFailed -> [checkpoint loaded: Published(k)] -> BatchRequest(k)
    no memory for it -> one line with what to change, and the end: another batch would need as much

torch runs in a worker thread, so that heartbeats go on during an update, and so do weight broadcasts
(`learner.trainer.broadcast.broadcaster`): what concerns them is sorted out of the messages at once. An update that
hangs ends the process (`learner.trainer.watchdog`), which is then started again from its last checkpoint. Otherwise it
ends with the exit code of the gateway's Shutdown; started as `python -m lamer.learner.trainer` by `lamer learner`.

When the run is interrupted (SIGINT, or Shutdown with code 130), the version held is saved unless its checkpoint is
there. An update that has not changed the policy yet is given up for that; one that has is brought to its end and
reported, but not published any more: whoever resumes publishes it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lamer.common import config
from lamer.common.errors import LamerError, Missing, OutOfMemory
from lamer.common.folders import sweep
from lamer.common.keys import ClientKeys
from lamer.common.liveness.guard import surviving
from lamer.common.liveness.line_budget import limited
from lamer.common.messages import (
    PROTOCOL_VERSION,
    Batch,
    BatchFailed,
    BatchRequest,
    Checkpointed,
    GroupJoin,
    GroupState,
    Hello,
    Metric,
    Role,
    Shutdown,
    UpdateReport,
    Welcome,
)
from lamer.common.session import BUSY_SECONDS, Session
from lamer.common.text import describe_error, valid_text
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.journal.reader import read_batch
from lamer.learner.memory.advice import TrainerPlan
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.broadcast.broadcaster import Broadcaster
from lamer.learner.trainer.broadcast.rank_zero import group_address
from lamer.learner.trainer.fitting import out_of_memory
from lamer.learner.trainer.following import LeadingUpdater, dismiss
from lamer.learner.trainer.model.policy import choose_device
from lamer.learner.trainer.publishing import Publisher
from lamer.learner.trainer.ranks.group import ONLY, Placement, RankLost, Ranks, meet
from lamer.learner.trainer.update import GivenUp, PolicyUpdater
from lamer.learner.trainer.watchdog import Watchdog

log = logging.getLogger("lamer.trainer")

Result = TypeVar("Result")

CONNECT_SECONDS = 60.0
INBOX_MESSAGES = 64
INTERRUPTED = 130


class Interrupted(Exception):
    """The run was interrupted while there was nothing to save; a thread may still be at work, and is not waited for."""


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """Where the gateway is and where the run lives."""

    url: str
    keys: ClientKeys
    run_dir: Path
    placement: Placement = ONLY


class Trainer:
    """One run's trainer: owns the updater, and what hands its weights on."""

    def __init__(self, options: TrainerOptions, session: Session) -> None:
        self._options = options
        self._session = session
        self._settings = config.from_json(session.welcome.config)
        self._broadcaster = Broadcaster(
            self._settings.inference,
            group_address(self._settings.trainer.group_address, self._settings.gateway.bind),
            session.send,
        )
        self._publisher = Publisher(
            options.run_dir / "weights",
            Path(session.welcome.model_path),
            self._settings.batch.max_staleness,
            self._broadcaster,
            session.send,
        )
        self._watchdog = Watchdog(self._settings.trainer.watchdog_seconds)
        self._inbox: asyncio.Queue[Batch | Welcome | Shutdown] = asyncio.Queue()
        self._interrupted = asyncio.Event()
        self._ranks: Ranks | None = None
        self._updater: PolicyUpdater | None = None
        self._saved = 0

    async def run(self) -> int:
        """Train until the gateway says Shutdown, or until SIGINT; the exit code.

        Raises:
            Interrupted: that came before the model was loaded and published.
            LamerError: as `run_trainer`.
        """
        on_signal = Shutdown("SIGINT", INTERRUPTED)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._end, on_signal)
        try:
            async with asyncio.TaskGroup() as tasks:
                works = (self._keep_receiving(), self._broadcaster.run(), self._publisher.run())
                background = [tasks.create_task(work) for work in works]
                exit_code = await self._train_until_shutdown()
                for task in background:
                    task.cancel()
        except* (LamerError, Interrupted) as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._broadcaster.close()
        if self._ranks is not None:
            await asyncio.to_thread(dismiss, self._ranks)
        return exit_code

    async def _keep_receiving(self) -> None:
        while True:
            message = await self._session.receive()
            match message:
                case GroupJoin() | GroupState():
                    with surviving(log, message, "a host"):
                        self._broadcaster.take(message)
                case Welcome():
                    self._broadcaster.reset()
                    self._put(message)
                case Batch():
                    self._put(message)
                case Shutdown():
                    self._end(message)
                    return
                case _:
                    log.warning("a %s is no message for a trainer", type(message).__name__)

    def _put(self, message: Batch | Welcome) -> None:
        if self._inbox.qsize() < INBOX_MESSAGES:
            self._inbox.put_nowait(message)
        else:
            log.warning("a %s is given up: %d messages wait", type(message).__name__, self._inbox.qsize())

    def _end(self, order: Shutdown) -> None:
        """Be told to end: what is going on is brought to where the version held is whole, or given up."""
        if order.exit_code == INTERRUPTED:
            self._interrupted.set()
            self._publisher.end()
            if self._updater is not None:
                self._updater.give_up()
        self._inbox.put_nowait(order)

    async def _train_until_shutdown(self) -> int:
        try:
            return await self._serve()
        except Exception as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(error) from error
            raise

    def _out_of_memory(self, error: Exception) -> OutOfMemory:
        device = choose_device(self._settings.trainer)
        held = self._updater
        plan = TrainerPlan.of(self._settings, is_cuda=device.type == "cuda") if held is None else held.plan
        return out_of_memory(error, plan, Path(self._session.welcome.model_path), device)

    async def _serve(self) -> int:
        await self._begin()
        while True:
            message = await self._inbox.get()
            match message:
                case Shutdown():
                    log.info("the run ended: %s", message.reason)
                    updater = self._held
                    if message.exit_code == INTERRUPTED and updater.version > self._saved:
                        await self._watchdog.run(f"saving version {updater.version}", self._save(updater))
                    await self._watchdog.run("writing what was published", self._publisher.settled())
                    return message.exit_code
                case Batch():
                    failure = await self._watchdog.run(f"update {message.step}", self._train(message))
                    if failure:
                        await self._session.send(BatchFailed(message.step, failure))
                        await self._begin()
                    elif not self._interrupted.is_set():
                        await self._ask()
                case Welcome():
                    await self._publish_again()
                    await self._ask()

    async def _begin(self) -> None:
        """Be at the last checkpoint: at the start, and after a batch that left the policy in an unknown state."""
        self._updater = None  # before the next one is loaded
        loading = self._watchdog.run("loading the model", asyncio.to_thread(self._load_updater))
        self._updater = await self._unless_interrupted(loading)
        self._saved = self._updater.version
        await self._unless_interrupted(self._publish_again())
        await self._ask()

    async def _ask(self) -> None:
        await self._session.send(BatchRequest(policy_version=self._held.version))

    @property
    def _held(self) -> PolicyUpdater:
        assert self._updater is not None
        return self._updater

    async def _unless_interrupted(self, work: Coroutine[None, None, Result]) -> Result:
        """What `work`, which leaves nothing to be saved, returns.

        Raises:
            Interrupted: the run was interrupted before it ended.
        """
        working, ending = asyncio.create_task(work), asyncio.create_task(self._interrupted.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Interrupted
            return working.result()
        finally:
            working.cancel()
            ending.cancel()

    async def _publish_again(self) -> None:
        updater = self._held
        if updater.version > 0:
            await self._watchdog.run(f"publishing version {updater.version}", self._publisher.publish_again(updater))

    def _load_updater(self) -> PolicyUpdater:
        if self._ranks is None:
            self._ranks = meet(self._options.placement, choose_device(self._settings.trainer))
        path = Path(self._session.welcome.model_path)
        gc.collect()  # sharded modules are in circles, and the memory of one that was given up is needed
        if self._ranks.size > 1:
            updater: PolicyUpdater = LeadingUpdater(self._settings, path, self._ranks)
        else:
            updater = PolicyUpdater(self._settings, path)
        sweep(self._options.run_dir / "weights", ".v")
        sweep(self._options.run_dir, ".model.")
        latest = checkpoint.latest(self._options.run_dir)
        if latest is not None:
            updater.load_checkpoint(latest)
            log.info("going on from %s, policy version %d", latest, updater.version)
        return updater

    async def _train(self, batch: Batch) -> str:
        """Train on a batch, publish, report; why it can't be trained, "" if it was."""
        updater = self._held
        if batch.policy_version != updater.version:
            log.warning("batch %d is for policy version %d, not %d", batch.step, batch.policy_version, updater.version)
            return ""
        try:
            trials = await asyncio.to_thread(read_batch, self._options.run_dir / "journal.db", batch.step)
            result = await asyncio.to_thread(updater.update, batch.step, trials)
        except GivenUp:
            log.info("update %d was given up before its first optimizer step", batch.step)
            return ""
        except (Missing, RankLost):
            raise
        except Exception as error:  # of these trials, whatever it is: the gateway decides how often they are tried
            if is_out_of_memory(error):  # so would any others
                raise
            log.exception("update %d failed; going back to the last checkpoint", batch.step)
            return valid_text(str(error)) if isinstance(error, LamerError) else describe_error(error)
        is_last = batch.step == self._settings.batch.updates
        began = time.perf_counter()
        if not self._interrupted.is_set():
            await self._publisher.publish(updater)
        waited = Metric("trainer/publishing_seconds", time.perf_counter() - began)
        parity = await asyncio.to_thread(updater.parity, trials, self._publisher.folder)
        await self._session.send(UpdateReport(step=batch.step, metrics=(*result.metrics, *parity, waited)))
        if is_last:
            await self._publisher.settled()  # the export is copied to where a snapshot lies that is being written
            await asyncio.to_thread(updater.export, self._options.run_dir / "model")
        if batch.step % self._settings.trainer.checkpoint_every == 0 or is_last:
            await self._save(updater)
        return ""

    async def _save(self, updater: PolicyUpdater) -> None:
        """Write a checkpoint of the version held, remove old ones, and tell the gateway."""
        version, run_dir = updater.version, self._options.run_dir
        folder = await asyncio.to_thread(updater.save_checkpoint, checkpoint.folder(run_dir, version))
        await asyncio.to_thread(checkpoint.prune, run_dir, self._settings.trainer.keep_checkpoints)
        self._saved = version
        log.info("saved policy version %d as %s", version, folder)
        await self._session.send(Checkpointed(step=version, path=str(folder)))


async def run_trainer(options: TrainerOptions) -> int:
    """Connect to the gateway and train until the run is over.

    Returns:
        the exit code that the gateway's Shutdown named.

    Raises:
        LamerError: the gateway can't be reached or refused us, the model can't be loaded, or an update failed.
        Hung: one hangs; `learner.trainer.watchdog.leave` ends the process then.
        Interrupted: the run was interrupted before there was anything to save.
    """
    hello = Hello(protocol_min=PROTOCOL_VERSION, protocol_max=PROTOCOL_VERSION, role=Role.TRAINER, name="trainer")
    session = await Session.open(options.url, options.keys, hello, CONNECT_SECONDS, BUSY_SECONDS)
    try:
        with limited(log):
            return await Trainer(options, session).run()
    finally:
        await session.close("the trainer ends")
