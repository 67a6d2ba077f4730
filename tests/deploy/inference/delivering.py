"""What tests of delivery are made of: a gateway with a scripted trainer, a proxy that cuts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from lamer.common.messages import (
    AnyMessage,
    ChunkRequest,
    ManifestRequest,
    ModelFilesRequest,
    Published,
    Role,
    WeightAnnouncement,
)
from lamer.common.session import Session
from lamer.common.settings import GatewaySettings
from lamer.deploy.inference.fetching.stream import StreamDelivery
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.gateway.weights.serving import StreamServer
from tests.learner.scripted import TIMEOUT, Run, make_run
from tests.learner.weights import TinyModel


@dataclass
class Learner:
    """A gateway whose weights a test publishes."""

    run: Run
    url: str
    model: TinyModel
    folder: Path
    trainer: Session

    async def publish(self, version: int) -> WeightAnnouncement:
        """Take a step and publish it."""
        self.model.step()
        weights = self.model.publish(self.folder / f"v{version}", version)
        await self.trainer.send(Published(version, weights.path, weights.files))
        return weights


@contextlib.asynccontextmanager
async def learner(folder: Path, model: TinyModel) -> AsyncIterator[Learner]:
    """A running gateway with `model` as version 0, patient enough for a busy machine."""
    patient = GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=TIMEOUT, lease_seconds=30.0, slot_retries=1)
    run = make_run(folder, gateway=patient)
    model.publish(folder / "model", 0)
    async with asyncio.timeout(4 * TIMEOUT):
        gateway = asyncio.create_task(run.gateway())
        try:
            url = await run.url()
            async with run.session(Role.TRAINER) as trainer:
                yield Learner(run, url, model, run.plan.run_dir / "published", trainer)
        finally:
            run.stop.set()
            await gateway


class Proxy:
    """Passes a TCP connection on to `url`. `hold_after` bytes towards the client, it passes no more on until `cut`."""

    def __init__(self, url: str) -> None:
        self._target = url
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self.hold_after: int | None = None
        self.passed = 0
        self.held = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break the connections; new ones are passed on without a limit."""
        self.hold_after = None
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        host, _, port = self._target.removeprefix("tcp://").partition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(self._pass(reader, up_writer, False), self._pass(up_reader, writer, True))
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()
            up_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_down: bool) -> None:
        while data := await reader.read(65536):
            if is_down:
                self.passed += len(data)
                if self.hold_after is not None and self.passed >= self.hold_after:
                    self.held.set()
                    await asyncio.Future()
            writer.write(data)
            await writer.drain()


class Loopback:
    """A learner's stream without a socket between: `alter` may change every answer on its way."""

    def __init__(self, folder: Path, model: TinyModel, answer_seconds: float = TIMEOUT) -> None:
        self.model = model
        self.folder = folder
        self.server = Announcer(model.publish(folder / "v0", 0), None)
        self.stream = StreamServer(self.server, folder / "stream")
        self.delivery = StreamDelivery(folder / "cache", self.mail, 0, answer_seconds)
        self.alter: Callable[[AnyMessage], AnyMessage | None] = lambda message: message
        self.asked: list[AnyMessage] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Loopback:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._tasks)
        await self.stream.close()

    @property
    def current(self) -> WeightAnnouncement:
        assert self.server.current is not None
        return self.server.current

    def publish(self) -> WeightAnnouncement:
        """Take a step and publish it."""
        version = self.current.version + 1
        self.model.step()
        self.server.announce(self.model.publish(self.folder / f"v{version}", version))
        return self.current

    async def mail(self, message: AnyMessage) -> None:
        self.asked.append(message)
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: AnyMessage) -> None:
        answer: AnyMessage | None = None
        match message:
            case ManifestRequest():
                answer = await self.stream.manifest(message)
            case ChunkRequest():
                answer = await self.stream.chunk(message)
            case ModelFilesRequest():
                answer = self.stream.model_files(message.digest)
        assert answer is not None
        altered = self.alter(answer)
        if altered is not None:
            self.delivery.take(altered)
