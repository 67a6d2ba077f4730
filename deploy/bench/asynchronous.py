"""Asynchronous Meta-RL rollout as it runs in production, up to the learner's edge.

The gateway and the actor processes are the real ones. Three things are not: the inference server is simulated, the host
agent's place is taken by `follow_weights`, which labels that server with each announced policy version, and the
trainer's by `take_batches`, which takes every batch at once and publishes the next version. So what is measured is
rollout.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.common.errors import LamerError, RunFailed
from lamer.common.keys import ClientKeys, ServerKeys, create_keys, load_client_keys, load_server_keys
from lamer.common.messages import (
    PROTOCOL_VERSION,
    Batch,
    BatchRequest,
    Hello,
    HostStatus,
    Metric,
    Published,
    Role,
    Status,
    StatusRequest,
    UpdateReport,
    WeightAnnouncement,
    Welcome,
)
from lamer.common.records import MemoryMode
from lamer.common.session import Session
from lamer.common.settings import (
    BatchSettings,
    EnvSettings,
    EvaluationSettings,
    GatewaySettings,
    InferenceSettings,
    RunSettings,
    Settings,
    TrackingSettings,
    TrialSettings,
)
from lamer.deploy.bench.report import ProcessLoad, ScheduleFigures, TokenBalance
from lamer.deploy.bench.scripted import NAME, write_entry_point
from lamer.deploy.bench.simulated import REQUEST_SECONDS, SimulatedServer, Throughput, process_cpu_seconds
from lamer.deploy.bench.wire import PacedInfo
from lamer.deploy.inference.engines.launch import free_port
from lamer.deploy.run.processes import end_all, lamer_command, last_error, start
from lamer.learner.gateway.gateway import run_gateway
from lamer.learner.gateway.plan import GatewayPlan
from lamer.learner.journal.reader import JournalReader, TokenFates

CONNECT_SECONDS = 30.0
STOP_SECONDS = 10.0
MIN_UPDATES = 20
MAX_WINDOWS = 3
"""The measurement goes on for so many times its least updates while it finds no steady state."""
WARM_UP_UPDATES = 3
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class AsyncOptions:
    """One measurement.

    groups, group_size, episodes: of a batch. actors: processes that share the trials. min_updates: updates measured at
    least; as many more follow as it takes until what was trained was generated in the same time.
    """

    groups: int
    group_size: int
    episodes: int
    max_staleness: int
    actors: int
    seed: int
    model_path: Path
    folder: Path
    min_updates: int = MIN_UPDATES

    @property
    def trials_admitted(self) -> int:
        """Trials that the staleness bound lets into the system at once."""
        return (self.max_staleness + 1) * self.groups * self.group_size

    @property
    def warm_up(self) -> int:
        """Updates after which the system no longer remembers that it started with everything at once."""
        return 2 * (self.max_staleness + 1) + WARM_UP_UPDATES

    @property
    def least_updates(self) -> int:
        """Updates measured at least: every trial admitted at its beginning is trained or dropped in it, and as many."""
        return max(self.min_updates, 2 * (self.max_staleness + 1))

    @property
    def last_update(self) -> int:
        """The update at which the measurement ends in any case."""
        return self.warm_up + MAX_WINDOWS * self.least_updates


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which a batch was cut.

    tokens: what had become of response tokens until then. cpu: seconds so far of the gateway and each actor.
    """

    info: PacedInfo
    status: Status
    tokens: TokenFates
    gateway_cpu: float
    actor_cpu: tuple[float, ...]
    wall: float


class NoTracker:
    """A `Tracker` that keeps nothing."""

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        """Forget the figures."""


def _settings(options: AsyncOptions, port: int) -> Settings:
    return Settings(
        run=RunSettings(name="bench", seed=options.seed),
        env=EnvSettings(name=NAME),
        trial=TrialSettings(episodes=options.episodes, memory=MemoryMode.BOTH),
        batch=BatchSettings(
            groups=options.groups,
            group_size=options.group_size,
            updates=options.last_update + 2 * (options.max_staleness + 1),
            max_staleness=options.max_staleness,
        ),
        inference=InferenceSettings(request_seconds=REQUEST_SECONDS),
        gateway=GatewaySettings(port=port),
        evaluation=EvaluationSettings(initial=False, tasks=0),
        tracking=TrackingSettings(mlflow=False),
    )


@asynccontextmanager
async def _session(url: str, keys: ClientKeys, role: Role) -> AsyncIterator[Session]:
    hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, role, f"bench {role.value}")
    session = await Session.open(url, keys, hello, CONNECT_SECONDS)
    try:
        yield session
    finally:
        await session.close("the measurement is over")


async def follow_weights(session: Session, server: SimulatedServer) -> None:
    """Label the server with each policy version that is announced, as a host agent would after loading its weights."""
    info = server.info
    while True:
        message = await session.receive()
        if isinstance(message, WeightAnnouncement):
            await server.client.pause("in_place")
            await server.client.load_weights(message.path, str(message.version), flush_cache=False)
            await server.client.resume()
            info = msgspec.structs.replace(info, policy_version=message.version)
        if isinstance(message, WeightAnnouncement | Welcome):
            await session.send(HostStatus(info, is_ready=True))


class Measurement:
    """The readings of one run: one for every batch that was cut."""

    def __init__(
        self, options: AsyncOptions, server: SimulatedServer, observer: Session, actors: Sequence[Process]
    ) -> None:
        self.marks: list[Mark] = []
        self._options = options
        self._server = server
        self._observer = observer
        self._actors = actors

    async def take(self, step: int) -> None:
        """Read everything at the moment at which the batch of update `step` was cut."""
        fates = await asyncio.to_thread(JournalReader(self._options.folder / "journal.db").token_fates, step)
        await self._observer.send(StatusRequest())
        status = await self._observer.receive()
        while not isinstance(status, Status):
            status = await self._observer.receive()
        actor_cpu = tuple(process_cpu_seconds(actor.pid) for actor in self._actors)
        info = await self._server.read()
        self.marks.append(Mark(info, status, fates, time.process_time(), actor_cpu, time.monotonic()))

    @property
    def is_over(self) -> bool:
        """Whether enough was measured: in a steady state, or for so long that there is none."""
        measured = len(self.marks) - 1 - self._options.warm_up
        if measured < self._options.least_updates:
            return False
        return len(self.marks) > self._options.last_update or self.balance.is_steady

    @property
    def balance(self) -> TokenBalance:
        """What became of tokens from the end of the warm-up to the last reading."""
        first, last = self.marks[self._options.warm_up], self.marks[-1]
        return TokenBalance(
            generated=last.info.tokens - first.info.tokens,
            trained=last.tokens.trained - first.tokens.trained,
            dropped=last.tokens.dropped - first.tokens.dropped,
        )

    def figures(self, saturation: float) -> ScheduleFigures:
        """The figures from the end of the warm-up to the last reading."""
        options = self._options
        measured = self.marks[options.warm_up :]
        first, last, updates = measured[0], measured[-1], len(measured) - 1
        run = Throughput.between(first.info, last.info)
        wall = last.wall - first.wall
        cpu = [("server", run.cpu_seconds), ("gateway", last.gateway_cpu - first.gateway_cpu)]
        pairs = zip(first.actor_cpu, last.actor_cpu, strict=True)
        cpu += [(f"actor {index}", after - before) for index, (before, after) in enumerate(pairs)]
        return ScheduleFigures(
            name="asynchronous Meta-RL",
            max_staleness=options.max_staleness,
            updates=updates,
            trajectories_per_update=options.groups * options.group_size * options.episodes,
            seconds_per_update=run.seconds / updates,
            tokens_per_second=run.tokens_per_second,
            saturation_share=run.tokens_per_second / saturation,
            busy_share=run.busy_seconds / run.seconds,
            tokens=self.balance,
            loads=tuple(ProcessLoad(name, seconds / wall) for name, seconds in cpu),
            in_flight=sum(mark.status.in_flight for mark in measured) / len(measured),
            staleness_mean=sum(mark.status.staleness_mean for mark in measured) / len(measured),
            staleness_max=max(mark.status.staleness_max for mark in measured),
            dropped_groups=last.status.dropped,
        )


async def take_batches(session: Session, measurement: Measurement, options: AsyncOptions) -> None:
    """Take batch after batch, publish the next version at once, and read the figures after each, until enough are."""
    await session.send(BatchRequest(0))
    while not measurement.is_over:
        message = await session.receive()
        if isinstance(message, Batch):
            await session.send(Published(message.step, str(options.model_path), files=()))
            await session.send(UpdateReport(message.step, metrics=()))
            await session.send(BatchRequest(message.step))
            await measurement.take(message.step)


async def _start_actors(options: AsyncOptions, url: str, keys: Path) -> tuple[Process, ...]:
    """`lamer actor` processes that together hold every trial that may be admitted."""
    write_entry_point(options.folder)
    trials = math.ceil(options.trials_admitted / options.actors)
    processes = []
    for index in range(options.actors):
        arguments = ("--connect", url, "--keys", str(keys), "--name", f"actor-{index}", "--trials", str(trials))
        command = ("env", f"PYTHONPATH={options.folder}", *lamer_command("actor", *arguments))
        processes.append(await start(command, _log_of(options, index)))
    return tuple(processes)


async def _watch(actor: Process, log: Path) -> None:
    """Wait for an actor that is not supposed to end."""
    code = await actor.wait()
    raise RunFailed(f"an actor ended with code {code} in the middle of the measurement: {last_error(log)}")


async def measure_asynchronous(server: SimulatedServer, options: AsyncOptions, saturation: float) -> ScheduleFigures:
    """Run the gateway and actors against the simulated server until enough updates in a steady state were measured.

    Raises:
        LamerError: the gateway failed, or an actor ended early.
    """
    keys = options.folder / "keys"
    create_keys(keys)
    server_keys = load_server_keys(keys)
    port = free_port(HOST)
    plan = GatewayPlan(
        settings=_settings(options, port),
        run="bench",
        run_dir=options.folder,
        model_path=str(options.model_path),
        env_config="{}",
        evaluation_env_config="{}",
        keys=server_keys,
        tracker=NoTracker(),
    )
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_gateway(plan, stop))
            measurement = await _measure(server, options, f"tcp://{HOST}:{port}", keys, server_keys)
            stop.set()
    except* LamerError as errors:
        raise errors.exceptions[0] from None
    return measurement.figures(saturation)


async def _measure(
    server: SimulatedServer, options: AsyncOptions, url: str, keys: Path, server_keys: ServerKeys
) -> Measurement:
    """Everything around a running gateway: the two stand-ins, an observer and the actors."""
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(_session(url, load_client_keys(keys, Role.HOST), Role.HOST))
        trainer = await stack.enter_async_context(_session(url, server_keys.of_trainer, Role.TRAINER))
        observer = await stack.enter_async_context(_session(url, load_client_keys(keys, Role.OBSERVER), Role.OBSERVER))
        actors = await _start_actors(options, url, keys)
        stack.push_async_callback(end_all, actors, STOP_SECONDS)
        measurement = Measurement(options, server, observer, actors)
        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(follow_weights(host, server))]
                for index, actor in enumerate(actors):
                    background.append(group.create_task(_watch(actor, _log_of(options, index))))
                await take_batches(trainer, measurement, options)
                for task in background:
                    task.cancel()
        except* LamerError as errors:
            raise errors.exceptions[0] from None
    return measurement


def _log_of(options: AsyncOptions, actor: int) -> Path:
    return options.folder / f"actor-{actor}.log"
