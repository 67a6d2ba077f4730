"""Scripted clients of a gateway: real sessions that play made-up trials, hold made-up weights and train nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lamer.common.codec import encode_trial
from lamer.common.keys import ClientKeys, create_keys, load_client_keys, load_server_keys, write_trainer_keys
from lamer.common.messages import (
    PROTOCOL_VERSION,
    Ack,
    AnyMessage,
    Batch,
    BatchRequest,
    Checkpointed,
    Hello,
    HostStatus,
    Lease,
    Metric,
    Nack,
    Published,
    Role,
    ServerInfo,
    Servers,
    Shutdown,
    TrialDone,
    UpdateReport,
    WeightAnnouncement,
    Welcome,
)
from lamer.common.records import (
    Completion,
    Episode,
    EpisodeStatus,
    FinishReason,
    Trial,
    Turn,
    VersionSpan,
)
from lamer.common.session import Session
from lamer.common.settings import (
    BatchSettings,
    EvaluationSettings,
    GatewaySettings,
    Settings,
    TrialSettings,
)
from lamer.common.weights import WeightFile
from lamer.learner.gateway.gateway import run_gateway
from lamer.learner.gateway.plan import GatewayPlan
from lamer.learner.journal.reader import read_batch
from lamer.learner.measuring.result import RunResult

TIMEOUT = 20.0
FILES = (WeightFile("model.safetensors", 7, "digest"),)


def completion(version: int = 0, tokens: int = 3, temperature: float = 1.0) -> Completion:
    return Completion(
        prompt_ids=np.arange(5, dtype=np.int32),
        ids=np.arange(tokens, dtype=np.int32),
        behaviour_logprobs=np.full(tokens, -0.5, dtype=np.float32),
        versions=(VersionSpan(version, 0, tokens),),
        finish_reason=FinishReason.STOP,
        temperature=temperature,
    )


def make_trial(
    lease: Lease, version: int = 0, statuses: Sequence[EpisodeStatus] = (EpisodeStatus.SOLVED,), tokens: int = 3
) -> Trial:
    """A trial of one turn an episode."""
    temperature = lease.sampling.temperature
    episodes = tuple(
        Episode(
            index, (Turn(completion(version, tokens, temperature), f"open {lease.task.seed % 3}", 1.0, "hall"),), status
        )
        for index, status in enumerate(statuses)
    )
    return Trial(
        lease.trial_id, lease.group_id, lease.slot, lease.purpose, lease.task, episodes, (), "scripted", seconds=0.1
    )


def hello(role: Role, name: str = "", capacity: int = 0) -> Hello:
    return Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, role, name or role.value, capacity=capacity)


@dataclass
class RecordedTracker:
    """Keeps what a real tracker would log."""

    logged: list[tuple[int, tuple[Metric, ...]]] = field(default_factory=list)

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        self.logged.append((step, tuple(metrics)))


@dataclass
class Run:
    """A gateway under test and how to reach it."""

    plan: GatewayPlan
    keys_folder: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def keys(self, role: Role) -> ClientKeys:
        """What a process of this role connects with."""
        return self.plan.keys.of_trainer if role is Role.TRAINER else load_client_keys(self.keys_folder, role)

    def trainer_keys(self) -> Path:
        """A folder with the trainer's."""
        folder = self.plan.run_dir / "trainer-keys"
        write_trainer_keys(folder, self.plan.keys)
        return folder

    @property
    def tracker(self) -> RecordedTracker:
        assert isinstance(self.plan.tracker, RecordedTracker)
        return self.plan.tracker

    async def gateway(self) -> RunResult:
        (self.plan.run_dir / "address").unlink(missing_ok=True)
        return await run_gateway(self.plan, self.stop)

    async def url(self) -> str:
        address = self.plan.run_dir / "address"
        async with asyncio.timeout(TIMEOUT):
            while not address.exists():  # noqa: ASYNC110 - another process would look as well
                await asyncio.sleep(0.01)
        return address.read_text().strip()

    async def host(self) -> int:
        """Be an inference host until told to leave."""
        async with self.session(Role.HOST) as session:
            return await Host(session).run()

    @contextlib.asynccontextmanager
    async def session(self, role: Role, name: str = "", capacity: int = 0) -> AsyncIterator[Session]:
        session = await Session.open(await self.url(), self.keys(role), hello(role, name, capacity), 5.0)
        try:
            yield session
        finally:
            await session.close("test is over")


def make_run(folder: Path, resume_step: int | None = None, **sections: object) -> Run:
    """A run of 3 updates, 2 groups of 2, no evaluation; `sections` replace sections of its settings."""
    if not (folder / "keys").exists():
        create_keys(folder / "keys")
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        (folder / "run").mkdir()
    settings = Settings(
        trial=TrialSettings(episodes=3),
        batch=BatchSettings(groups=2, group_size=2, updates=3, max_staleness=1),
        gateway=GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=1.0, lease_seconds=30.0, slot_retries=1),
        evaluation=EvaluationSettings(initial=False, tasks=0),
    )
    plan = GatewayPlan(
        settings=replace(settings, **sections),  # type: ignore[arg-type]
        run="test-1",
        run_dir=folder / "run",
        model_path=str(folder / "model"),
        env_config="{}",
        evaluation_env_config="{}",
        keys=load_server_keys(folder / "keys"),
        tracker=RecordedTracker(),
        resume_step=resume_step,
    )
    return Run(plan, folder / "keys")


Play = Callable[[Lease, int], Trial | None]


def play_at_once(lease: Lease, version: int) -> Trial:
    """Solved in the first episode for even seeds, in the third for odd ones."""
    failed = EpisodeStatus.FAILED
    statuses = (EpisodeStatus.SOLVED,) if lease.task.seed % 2 == 0 else (failed, failed, EpisodeStatus.SOLVED)
    return make_trial(lease, version, statuses)


@dataclass
class Actor:
    """Answers every lease with what `play` makes of it and the version of the servers; None: never answers."""

    session: Session
    play: Play = play_at_once
    leases: list[Lease] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)
    nacks: list[Nack] = field(default_factory=list)
    servers: Servers = field(default_factory=lambda: Servers(()))

    async def run(self) -> int:
        while True:
            message = await self.session.receive()
            if isinstance(message, Shutdown):
                await self.session.close("told to")
                return message.exit_code
            await self.take(message)

    async def take(self, message: AnyMessage) -> None:
        match message:
            case Servers():
                self.servers = message
            case Ack():
                self.acked.extend(message.trial_ids)
            case Nack():
                self.nacks.append(message)
            case Lease():
                self.leases.append(message)
                trial = self.play(message, min(server.policy_version for server in self.servers.servers))
                if trial is not None:
                    await self.session.send(TrialDone(trial.trial_id, encode_trial(trial)))


@dataclass
class Host:
    """Holds every announced version at once."""

    session: Session
    versions: list[int] = field(default_factory=list)

    async def run(self) -> int:
        while True:
            message = await self.session.receive()
            if isinstance(message, Shutdown):
                await self.session.close("told to")
                return message.exit_code
            if isinstance(message, WeightAnnouncement):
                self.versions.append(message.version)
                server = ServerInfo("server", "http://127.0.0.1:1", "key", message.version, 8)
                await self.session.send(HostStatus(server, True, pause_seconds=0.01, update_seconds=0.02))


@dataclass
class Trainer:
    """Reads its batches from the journal and publishes the next version.

    version: that it holds at its start. dies_at: the step in whose update it ends without a word, 0 for none.
    """

    session: Session
    run_dir: Path
    version: int = 0
    dies_at: int = 0
    batches: list[tuple[Batch, tuple[Trial, ...]]] = field(default_factory=list)

    async def run(self) -> int:
        if self.version > 0:
            await self.session.send(Published(self.version, "weights", ""))
        await self.session.send(BatchRequest(self.version))
        while True:
            message = await self.session.receive()
            if isinstance(message, Shutdown):
                await self.session.close("told to")
                return message.exit_code
            if isinstance(message, Welcome):
                await self.session.send(BatchRequest(self.version))
            if isinstance(message, Batch):
                await self.train(message)
                if message.step == self.dies_at:
                    return -1

    async def train(self, batch: Batch) -> None:
        self.batches.append((batch, read_batch(self.run_dir / "journal.db", batch.step)))
        if batch.step == self.dies_at:
            return
        self.version = batch.step
        await self.session.send(Published(self.version, f"weights/v{self.version}", FILES))
        await self.session.send(UpdateReport(batch.step, (Metric("loss", random.random()),)))
        await self.session.send(Checkpointed(batch.step, f"checkpoints/{batch.step}"))
        await self.session.send(BatchRequest(self.version))
