"""The gateway: one socket that actors, inference hosts, the trainer and observers talk to, and what answers them.

    peers       who is connected            dispatch     leases out             leases     who plays what until when
    intake      trials in, acknowledged     pool         groups + journal       groups     admission to batch
    batching    the trainer's side          admission    how old is too old     hosts      the inference hosts' side
    evaluations which versions to measure   open_evaluation  the one under way  status     rates
    progress    phases and figures          weights/     announced, served to hosts without a shared disk
    plan        what a gateway is started with           hearing    the time by which peers are silent
    checking/   who may say what; what a trial must satisfy  `learner.journal`: what is on disk

One event loop handles every message in order; what follows from it (a cut, new leases) is done by `_keep_advancing`,
which any change wakes. Writing to disk happens in the journal's thread.

    STARTING -> [initial evaluation] -> TRAINING <-> [evaluations] -> final evaluation -> DONE, then Shutdown to all
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from lamer.common import config
from lamer.common.codec import CodecError, decode_message, encode_message
from lamer.common.errors import BadInput
from lamer.common.keys import Client
from lamer.common.liveness.guard import reason_of
from lamer.common.liveness.line_budget import limited
from lamer.common.liveness.loop_lag import LoopLag
from lamer.common.messages import (
    AnyMessage,
    BatchFailed,
    BatchRequest,
    Checkpointed,
    ChunkRequest,
    Goodbye,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupState,
    GroupUpdate,
    Heartbeat,
    Hello,
    HostStatus,
    ManifestRequest,
    ModelFilesRequest,
    Phase,
    Published,
    Reject,
    Role,
    Shutdown,
    StatusRequest,
    TrialDone,
    TrialFailed,
    UpdateReport,
)
from lamer.common.transport import RouterEndpoint
from lamer.learner.gateway.batching import Batcher
from lamer.learner.gateway.checking.permissions import may_send
from lamer.learner.gateway.checking.quarantine import Quarantine
from lamer.learner.gateway.checking.rules import TrialRules, read_vocabulary
from lamer.learner.gateway.dispatch import Dispatcher
from lamer.learner.gateway.evaluations import Evaluations
from lamer.learner.gateway.hearing import Hearing
from lamer.learner.gateway.hosts import Hosts
from lamer.learner.gateway.intake import Intake
from lamer.learner.gateway.peers import Expectation, Link, Peer, PeerTable
from lamer.learner.gateway.plan import GatewayPlan, RunFacts, evaluation_schedule
from lamer.learner.gateway.pool import TrainingTasks, TrialPool
from lamer.learner.gateway.progress import Progress, RunFigures, UpdateReports
from lamer.learner.gateway.weights.announcing import Announcer, first_weights, newest_folder
from lamer.learner.gateway.weights.serving import StreamServer
from lamer.learner.journal.archiving import Archiver
from lamer.learner.journal.entries import TrialEntry
from lamer.learner.journal.writer import Journal
from lamer.learner.measuring.evaluation import FINAL, INITIAL
from lamer.learner.measuring.result import RunResult

log = logging.getLogger("lamer.gateway")

GOODBYE_SECONDS = 5.0
ARCHIVE_SECONDS = 30.0
MESSAGES_A_TURN = 16
INTERRUPTED = 130
_TAKEN = "another process called {name} joined with the same key after it: give each process a --name of its own"

KEYS_SECONDS = 1.0
"""How often the allow-list is read again; a key that is gone from it is cut off then."""


async def run_gateway(
    plan: GatewayPlan,
    stop: asyncio.Event | None = None,
    trainer_ended: asyncio.Event | None = None,
    trouble: asyncio.Future[None] | None = None,
) -> RunResult:
    """Run a whole training (or, with batch.updates 0, one evaluation) and return how it went.

    Listens at settings.gateway.bind and .port; run_dir/address holds the address as long as it does. Setting `stop`
    ends the run early: peers are told to exit with 130 and the journal is committed. A trainer that then has an update
    to report and a checkpoint to write is heard until `trainer_ended` is set; None: as briefly as the others.
    An error set on `trouble` ends it as one of the gateway's own: peers are told its exit code.

    Raises:
        Missing: the port is taken, or the model folder is not there. BadInput: the run folder holds another run's
        journal. RunFailed: the journal can't be written, or no group can be trained.
    """
    weights = await asyncio.to_thread(first_weights, Path(plan.model_path))
    with limited(log):
        newest = newest_folder(plan.run_dir / "weights")
        gateway = Gateway(plan, Announcer(weights, plan.resume_step, plan.settings.batch.max_staleness, newest))
        if trouble is not None:
            trouble.add_done_callback(gateway.take_trouble)
        try:
            return await gateway.run(stop or asyncio.Event(), trainer_ended)
        finally:
            await gateway.close()


class Gateway:
    """One run's gateway: wires its parts together and owns the tasks that drive them."""

    def __init__(self, plan: GatewayPlan, weights: Announcer) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", plan.run):
            raise BadInput(f"a run's name is made of letters, digits, '.', '_' and '-', got {plan.run!r}")
        journal_path = plan.run_dir / "journal.db"
        if plan.resume_step is None and journal_path.exists():
            raise BadInput(f"{plan.run_dir} holds a run already: resume it, or choose another run.name")
        self._plan = plan
        settings = plan.settings
        self._settings = settings.gateway
        self._config = config.to_json(settings)
        self._expectation = Expectation(plan.run, config.config_hash(settings), plan.fingerprint)
        self._loop = asyncio.get_running_loop()
        self._progress = Progress(started=self._loop.time(), training_since=self._loop.time())
        self._work = asyncio.Event()
        self._alone = asyncio.Event()
        self._farewell: Shutdown | None = None
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._malformed = 0
        self._allowed = plan.keys.allow_list()
        self._router = RouterEndpoint(
            settings.gateway.bind, settings.gateway.port, plan.keys.pair, self._allowed.admits
        )
        self._journal = Journal(journal_path, self._on_stored, self._fail)
        self._archiver = Archiver(journal_path, self._journal)
        self._peers = PeerTable()
        beat = settings.gateway.heartbeat_seconds
        self._hearing = Hearing(self._loop.time, beat)
        self._link = Link(self._router, self._peers, settings.gateway.dead_after_seconds, grace=2 * beat)
        self._weights = weights
        tasks = TrainingTasks(settings.env.name, plan.env_config, settings.run.seed)
        self._pool = TrialPool(plan.run, settings.batch, settings.gateway.slot_retries, tasks, self._journal)
        self._dispatcher = Dispatcher(
            plan.run, settings.trial, settings.gateway, self._pool, self._peers, self._link, weights
        )
        schedule = evaluation_schedule(plan)
        self._intake = Intake(
            plan.run,
            TrialRules(settings.trial, schedule.asked, read_vocabulary(Path(plan.model_path))),
            Quarantine(plan.run_dir / "quarantine", settings.gateway.quarantine_bytes),
            settings.batch.group_size,
            self._pool,
            self._dispatcher,
            weights,
            self._peers,
            self._link,
            self._hearing.now,
        )
        self._batcher = Batcher(
            settings.batch.updates,
            self._pool,
            self._dispatcher.leases,
            weights,
            self._peers,
            self._link,
            (plan.run_dir, Path(plan.model_path)),
        )
        self._evaluations = Evaluations(
            plan.run_dir,
            schedule,
            plan.tracker,
            self._journal,
            self._dispatcher,
            self._progress.evaluations,
            self._work.set,
        )
        self._lag = LoopLag(log)
        self._figures = RunFigures(
            RunFacts.of(plan),
            self._progress,
            self._pool,
            self._dispatcher,
            self._intake,
            self._batcher,
            weights,
            self._peers,
            self._lag,
        )
        self._reports = UpdateReports(plan.run_dir, plan.tracker, self._figures)
        stream = StreamServer(weights, plan.run_dir / "weights" / "stream")
        self._hosts = Hosts(
            Path(plan.model_path), weights, stream, self._peers, self._link, self._dispatcher.announce_servers
        )

    # --- the run -----------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, trainer_ended: asyncio.Event | None = None) -> RunResult:
        """Play all phases, or until `stop`, and say Shutdown to everyone; see `run_gateway`."""
        try:
            await self._restore()
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(work)
                    for work in (
                        self._router.serve(lambda why: log.warning("a client was refused: %s", why)),
                        self._keep_reading_keys(),
                        self._hosts.run(),
                        self._lag.watch(),
                        self._archiver.run(),
                        self._keep_receiving(),
                        self._keep_beating(),
                        self._keep_advancing(),
                        self._keep_evaluating(),
                    )
                ]
                self._write_address()
                phases = tasks.create_task(self._play_phases())
                stopping = tasks.create_task(stop.wait())
                await asyncio.wait((phases, stopping, self._failure), return_when=asyncio.FIRST_COMPLETED)
                if self._failure.done():
                    self._failure.result()
                exit_code = 0 if phases.done() else INTERRUPTED
                phases.cancel()
                stopping.cancel()
                await self._dismiss(exit_code, trainer_ended)
                if exit_code == 0:
                    await self._archiver.settled(ARCHIVE_SECONDS)
                for task in background:
                    task.cancel()
        except ExceptionGroup as errors:
            failure = reason_of(log, errors)
            self._progress.phase = Phase.FAILED
            self._link.broadcast(Shutdown(str(failure), failure.exit_code))
            raise failure from None
        return self._figures.result(self._loop.time(), exit_code)

    async def close(self) -> None:
        """Commit the journal and close the socket."""
        (self._plan.run_dir / "address").unlink(missing_ok=True)
        await self._hosts.close()
        await self._journal.close()
        self._reports.close()
        self._router.close()

    async def _play_phases(self) -> None:
        plan = self._plan
        updates = plan.settings.batch.updates
        if not plan.resume_step and plan.settings.evaluation.initial and updates > 0:
            await self._evaluate(INITIAL, 0)
        if updates > 0:
            self._progress.phase = Phase.TRAINING
            self._progress.training_since = self._loop.time()
            self._dispatcher.is_training = True
            self._work.set()
            await self._batcher.finished.wait()
            self._progress.training_seconds = self._progress.trained_for(self._loop.time())
            self._dispatcher.is_training = False
        await self._evaluate(FINAL, updates)
        self._progress.phase = Phase.DONE

    async def _evaluate(self, name: str, version: int) -> None:
        if self._plan.settings.evaluation.tasks > 0:
            self._progress.phase = Phase.EVALUATING
            await self._evaluations.measure(name, version)

    async def _keep_evaluating(self) -> None:
        """Measure the versions that training waits to have measured."""
        while True:
            name, version = await self._evaluations.due()
            await self._evaluate(name, version)
            self._progress.phase = Phase.TRAINING

    async def _restore(self) -> None:
        """Go on from the journal of a run that is resumed. Past update 0 its evaluations are read back; before that,
        `_play_phases` completes the initial one.
        """
        step = self._plan.resume_step
        if step is None:
            return
        state = await self._journal.resume(step)
        self._dispatcher.leases.restore(await self._journal.holders())
        held = self._dispatcher.slots_held(state.groups)
        self._pool.groups.restore(state.groups, state.trained, state.next_group_id, held, updates=step)
        self._dispatcher.restore(state.groups, self._hearing.now())
        self._batcher.begin_at(step, state.groups)
        self._reports.restore(step, state)
        self._archiver.covered(step)
        if step > 0:
            self._evaluations.restore(step)

    async def _dismiss(self, exit_code: int, trainer_ended: asyncio.Event | None) -> None:
        """Say Shutdown to all, hear the trainer of an interrupted run out, and wait a bounded time for Goodbyes."""
        self._farewell = Shutdown("the run is done" if exit_code == 0 else "the run was interrupted", exit_code)
        self._link.broadcast(self._farewell)
        self._journal.forget_holders()
        if exit_code == INTERRUPTED and trainer_ended is not None:
            await trainer_ended.wait()
        if len(self._peers) > 0:
            self._alone.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._alone.wait(), GOODBYE_SECONDS)

    # --- tasks -------------------------------------------------------------------------------------------------

    async def _keep_receiving(self) -> None:
        taken = 0
        while True:
            received = await self._router.receive()
            client = self._allowed.find(received.key)
            if client is None:
                log.warning("a message was refused: its sender's key is not allowed any more")
                continue
            try:
                message = decode_message(received.data)
            except CodecError as error:
                self._malformed += 1
                log.warning("malformed message %d ignored: %s", self._malformed, error)
            else:
                with self._peers.surviving(received.identity, message):
                    await self._handle(received.identity, client, message)
            with self._hearing.held_up():
                await self._journal.drained(self._settings.credit_bytes)
            taken += 1
            if taken % MESSAGES_A_TURN == 0:  # receive() does not yield while messages are waiting
                await asyncio.sleep(0)

    async def _keep_beating(self) -> None:
        heard = self._hearing.now()
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            before, heard = heard, self._hearing.now()
            self._link.broadcast(Heartbeat())
            if self._weights.servers():  # their loads have changed
                self._dispatcher.announce_servers()
            for peer in self._peers.age(heard - before, self._settings.dead_after_seconds):
                log.warning("%s %s is silent and taken for dead", peer.role.value, peer.hello.name)
                self._lose(peer, is_dead=True)
            self._dispatcher.expire(heard)
            self._work.set()

    async def _keep_reading_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            await asyncio.to_thread(self._allowed.refresh)  # a shared disk may be slow
            for peer in self._peers.all():
                if self._allowed.find(peer.client.public) != peer.client:
                    log.warning("%s %s is cut off: its key is not allowed any more", peer.role.value, peer.hello.name)
                    self._link.send(peer, Reject(f"its key, {peer.client.name}, is not allowed any more"))
                    self._lose(peer, is_dead=False)
                    self._work.set()

    async def _keep_advancing(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._dispatcher.is_training and not self._evaluations.must_come_first(self._pool.trained_from):
                self._batcher.try_cut(self._progress.training_since)
            self._dispatcher.fill(self._hearing.now())

    def _on_stored(self, entries: Sequence[TrialEntry]) -> None:
        try:
            self._intake.stored(entries)
        except Exception as error:  # nobody awaits this call: the run fails with it
            self._fail(error)
        self._work.set()

    def take_trouble(self, trouble: asyncio.Future[None]) -> None:
        """Something beside the gateway failed, such as its trainer: the run fails with it."""
        failure = None if trouble.cancelled() else trouble.exception()
        if isinstance(failure, Exception):
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(failure)
            self._failure.exception()  # nobody may be left to ask, in a run that is ending

    # --- messages ----------------------------------------------------------------------------------------------

    async def _handle(self, identity: bytes, client: Client, message: AnyMessage) -> None:
        """Do what a message says that came from this client's key."""
        if isinstance(message, Hello):
            self._greet(identity, client, message)
            return
        peer = self._peers.heard(identity)
        if peer is None:  # its connection is new and its Hello on the way, or was lost: it will say it again
            return
        kind = type(message).__name__
        if peer.client != client or not may_send(peer.role, message):
            log.warning("%s from %s %s refused", kind, peer.role.value, peer.hello.name)
            return
        if not isinstance(message, Heartbeat):
            await self._handle_work(peer, message)
            self._work.set()

    async def _handle_work(self, peer: Peer, message: AnyMessage) -> None:
        """Hand a message of a welcomed peer of the right role to whoever deals with it."""
        match message:
            case TrialDone():
                self._intake.done(peer, message)
            case TrialFailed():
                self._intake.failed(peer, message)
            case HostStatus():
                self._hosts.report(peer, message)
            case ManifestRequest() | ChunkRequest():
                self._hosts.answer(peer, message)
            case GroupJoin() | GroupState():
                self._hosts.relay_to_trainer(peer, message)
            case GroupOffer() | GroupUpdate() | GroupOrder():
                self._hosts.relay_to_host(message)
            case ModelFilesRequest():
                self._hosts.give_model_files(peer, message)
            case BatchRequest() | BatchFailed():
                with self._hearing.held_up():
                    await self._batcher.take(peer, message)
            case Published():
                self._batcher.published(message)
            case UpdateReport():
                self._reports.take(message, self._loop.time())
            case Checkpointed():
                self._batcher.checkpointed(message)
                self._archiver.covered(message.step)
            case StatusRequest():
                self._link.send(peer, self._figures.status(self._loop.time()))
            case Goodbye():
                self._lose(peer, is_dead=False)
            case _:
                raise AssertionError(f"nobody deals with {type(message).__name__}")

    def _greet(self, identity: bytes, client: Client, hello: Hello) -> None:
        if self._farewell is not None:
            self._router.send(identity, encode_message(self._farewell))
            return
        refusal = self._expectation.refusal(hello, client)
        if self._peers.is_fenced(identity, hello, client):
            refusal = _TAKEN.format(name=hello.name)
        if refusal:
            log.warning("%s %s refused: %s", hello.role.value, hello.name, refusal)
            self._router.send(identity, encode_message(Reject(refusal)))
            return
        before = self._peers.behind(identity)
        if before is not None and not self._peers.is_of(before, identity, hello, client):
            self._lose(before, is_dead=True)  # a connection is one process's: peers are no more than connections
        peer = self._peers.welcome(identity, hello, client)
        for rival in self._peers.rivals(peer):
            log.warning("%s %s joined again and takes the place of an older process", peer.role.value, hello.name)
            self._link.send(rival, Reject(_TAKEN.format(name=hello.name)))
            self._lose(rival, is_dead=True)
            self._peers.fence(rival)
        config_hash, version = self._expectation.config_hash, self._pool.trained_from
        self._link.send(peer, self._plan.welcome(hello, self._config, config_hash, version))
        if hello.role is Role.ACTOR:
            self._dispatcher.greet(peer, self._hearing.now())
        elif hello.role is Role.HOST:
            self._hosts.greet(peer)
        elif hello.role is Role.TRAINER:
            self._hosts.greet_trainer(peer)
        log.info("%s %s joined", hello.role.value, hello.name)
        self._work.set()

    def _lose(self, peer: Peer, *, is_dead: bool) -> None:
        self._peers.remove(peer)
        if peer.role is Role.ACTOR:
            self._dispatcher.lost(peer, is_dead)
        elif peer.role is Role.HOST:
            self._hosts.lose(peer)
        elif peer.role is Role.TRAINER:
            self._batcher.lost(peer)
        if len(self._peers) == 0:
            self._alone.set()

    def _write_address(self) -> None:
        temporary = self._plan.run_dir / "address.tmp"
        temporary.write_text(self._router.url + "\n", encoding="ascii")
        temporary.replace(self._plan.run_dir / "address")
