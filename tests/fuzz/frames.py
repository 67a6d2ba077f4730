"""Mutated frames against a real gateway on real sockets, from a peer that holds a lease, beside an honest actor.

Everything runs in one process and one event loop. The trainer is scripted: it trains nothing, and shows every trial of
its batches to the oracle (`tests.fuzz.oracle`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.codec import CodecError, decode_message, encode_message, encode_trial
from lamer.common.messages import (
    Ack,
    Batch,
    BatchRequest,
    Checkpointed,
    Lease,
    Published,
    Role,
    Shutdown,
    Status,
    StatusRequest,
    TrialDone,
)
from lamer.common.settings import BatchSettings, GatewaySettings, TrialSettings
from lamer.common.transport import DealerEndpoint
from lamer.learner.journal.reader import read_batch
from tests.fuzz.mutation import Mutator, sound_frames
from tests.fuzz.oracle import objections
from tests.learner.scripted import FILES, Actor, Host, Run, Trainer, hello, make_run, make_trial

VOCABULARY, TEMPERATURE, LONGEST = 64, 1.0, 16
BURST = 50
"""Frames between two turns of everybody else, and two Hellos of the fuzzer."""
HONEST_PAUSE = 0.01


@dataclass
class FuzzResult:
    """What came of one seed. rss: MiB when the fuzzer had sent a tenth, and at the end. served: honest trials that were
    acknowledged in each tenth of the frames.
    """

    frames: int = 0
    seconds: float = 0.0
    quarantined: int = 0
    fuzzed_leases: int = 0
    is_alive: bool = False
    rss: tuple[float, float] = (0.0, 0.0)
    trained: int = 0
    objections: list[str] = field(default_factory=list)
    served: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        rate, honest = self.frames / self.seconds, sum(self.served) / self.seconds
        return (
            f"{self.frames} frames, {rate:.0f} a second; gateway alive: {self.is_alive}; RSS {self.rss[0]:.0f} -> "
            f"{self.rss[1]:.0f} MiB; leases held: {self.fuzzed_leases}, quarantined: {self.quarantined}; trained: "
            f"{self.trained} trials, refused by the oracle: {len(self.objections)}; honest trials: {sum(self.served)}, "
            f"{honest:.0f} a second, at least {min(self.served, default=0)} in each tenth"
        )


@dataclass
class WatchedTrainer(Trainer):
    """Shows what it is given to the oracle, and keeps nothing."""

    result: FuzzResult = field(default_factory=FuzzResult)

    async def train(self, batch: Batch) -> None:
        for trial in read_batch(self.run_dir / "journal.db", batch.step):
            self.result.trained += 1
            self.result.objections += objections(trial, VOCABULARY, batch.policy_version, TEMPERATURE, LONGEST)
        self.version = batch.step
        await self.session.send(Published(self.version, f"weights/v{self.version}", FILES))
        await self.session.send(Checkpointed(batch.step, f"checkpoints/{batch.step}"))
        await self.session.send(BatchRequest(self.version))


@dataclass
class HonestActor(Actor):
    """Plays at an even pace, and counts."""

    acknowledged: int = 0

    async def run(self) -> int:
        while not isinstance(message := await self.session.receive(), Shutdown):
            if isinstance(message, Ack):
                self.acknowledged += len(message.trial_ids)
                continue
            if isinstance(message, Lease):
                await asyncio.sleep(HONEST_PAUSE)
            await self.take(message)
            self.leases.clear()
        return message.exit_code


class Fuzzer:
    """A peer with a valid key. It says sound Hellos, holds what it is leased, and sends odd bytes."""

    def __init__(self, run: Run, seed: int) -> None:
        self._run = run
        self._frames = sound_frames()
        self._mutator = Mutator(seed, self._frames)
        self._rng = self._mutator.rng
        self._leases: list[Lease] = []
        self.leases_held = 0
        self._endpoint: DealerEndpoint | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """A new connection, on which something like Hello may have been said."""
        await self.close()
        keys = self._run.keys(Role.ACTOR)
        self._endpoint = DealerEndpoint(await self._run.url(), keys.pair, keys.server_public)
        await self._endpoint.connected(20.0)
        self._reading = asyncio.create_task(self._read(self._endpoint))

    async def close(self) -> None:
        """Hang up."""
        if self._reading is not None and self._endpoint is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            self._endpoint.close(linger_ms=1000)

    async def burst(self, count: int) -> None:
        """Send so many frames; now and then on a new connection."""
        assert self._endpoint is not None
        if self._rng.random() < 0.02:
            await self.connect()
        role = self._rng.choice((*[Role.ACTOR] * 6, Role.HOST, Role.OBSERVER))
        if self._rng.random() < 0.9:
            await self._endpoint.send(encode_message(hello(role, f"fuzzer {role.value}", 2 * (role is Role.ACTOR))))
        for _ in range(count):
            await self._send()

    async def _send(self) -> None:
        assert self._endpoint is not None
        data = self._odd_trial() if self._leases and self._rng.random() < 0.5 else self._odd_frame()
        if self._rng.random() < 0.01:  # several frames in one message
            await self._endpoint._socket.send_multipart([data, data[:10]])
        else:
            await self._endpoint.send(data)

    def _odd_frame(self) -> bytes:
        data = self._mutator.mutated(self._rng.choice(self._frames))
        return b"" if _says_trainer(data) else data

    def _odd_trial(self) -> bytes:
        """A lease's trial with something wrong in it; seldom a sound one."""
        lease = self._rng.choice(self._leases)
        body = encode_trial(make_trial(lease))
        if self._rng.random() < 0.95:
            body = self._mutator.mutated(body)
            self._leases = self._leases[-50:]
        return encode_message(TrialDone(lease.trial_id, body))

    async def _read(self, endpoint: DealerEndpoint) -> None:
        while True:
            message = decode_message(await endpoint.receive())
            if isinstance(message, Lease):
                self._leases.append(message)
                self.leases_held += 1


def _says_trainer(data: bytes) -> bool:
    """Whether a frame would be a trainer's Hello: whose key may say that is the gateway's business, not its bytes."""
    if b"trainer" not in data:
        return False
    try:
        return getattr(decode_message(data), "role", None) is Role.TRAINER
    except CodecError:
        return False


async def fuzz(folder: Path, seed: int, frames: int, a_second: float = 0.0) -> FuzzResult:
    """Send `frames` frames made from `seed`, `a_second` of them or as fast as they are taken."""
    run = _make_run(folder)
    result = FuzzResult(frames=frames)
    running = asyncio.create_task(run.gateway())
    async with (
        run.session(Role.ACTOR, "honest", capacity=4) as a,
        run.session(Role.HOST) as h,
        run.session(Role.TRAINER) as t,
        run.session(Role.OBSERVER) as observer,
    ):
        actor = HonestActor(a)
        trainer = WatchedTrainer(t, run.plan.run_dir, result=result)
        others = [asyncio.create_task(each) for each in (actor.run(), Host(h).run(), trainer.run())]
        fuzzer = Fuzzer(run, seed)
        await fuzzer.connect()
        await _send_all(fuzzer, result, frames, a_second, lambda: actor.acknowledged)
        await fuzzer.close()
        result.fuzzed_leases = fuzzer.leases_held
        before = actor.acknowledged
        async with asyncio.timeout(60):  # the honest actor goes on being served, and so is an observer
            await observer.ask(StatusRequest(), Status)
            while actor.acknowledged < before + 20:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        result.is_alive = not running.done() and not any(task.done() for task in others)
        run.stop.set()
        await asyncio.wait([running, *others], timeout=30)
    with contextlib.suppress(Exception):
        running.result()
    result.quarantined = len(list((run.plan.run_dir / "quarantine").glob("*.msgpack")))
    return result


async def _send_all(
    fuzzer: Fuzzer, result: FuzzResult, frames: int, a_second: float, acknowledged: Callable[[], int]
) -> None:
    began, sent, seen, rss = time.monotonic(), 0, acknowledged(), 0.0
    for tenth in range(10):
        while sent < (tenth + 1) * frames // 10:
            count = min(BURST, (tenth + 1) * frames // 10 - sent)
            await fuzzer.burst(count)
            sent += count
            await asyncio.sleep(max(0.0, began + sent / a_second - time.monotonic()) if a_second else 0.0)
        now = acknowledged()
        result.served.append(now - seen)
        seen = now
        rss = rss or rss_mib()
    result.seconds = time.monotonic() - began
    result.rss = (rss, rss_mib())


def _make_run(folder: Path) -> Run:
    run = make_run(
        folder,
        trial=TrialSettings(
            episodes=3, max_response_tokens=LONGEST, max_reflection_tokens=LONGEST, temperature=TEMPERATURE
        ),
        batch=BatchSettings(groups=2, group_size=1, updates=10**6, max_staleness=50),
        gateway=GatewaySettings(heartbeat_seconds=1.0, dead_after_seconds=60.0, lease_seconds=5.0, slot_retries=10**6),
    )
    (Path(run.plan.model_path) / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY}))
    return run


def rss_mib() -> float:
    """Memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def quiet() -> None:
    """Nothing below an error in the log: the gateway's lines are bounded, and still many."""
    logging.getLogger("lamer").setLevel(logging.ERROR)
