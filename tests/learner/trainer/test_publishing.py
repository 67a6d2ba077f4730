"""Publishing while training goes on: in order, one write behind at most, and nothing rewritten that is there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lamer.common import config
from lamer.common.keys import create_keys, load_client_keys
from lamer.common.messages import AnyMessage, BatchRequest, Published, Role, Shutdown, Welcome
from lamer.common.weights import WeightFile, weight_files
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.publishing import Publisher
from lamer.learner.trainer.trainer import Trainer, TrainerOptions
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch, write_model
from tests.learner.trainer.test_checkpoint import SETTINGS

pytestmark = pytest.mark.timeout(60)


class SilentBroadcaster:
    """Has no members."""

    async def offer(self, version: int, folder: Path, files: Sequence[WeightFile]) -> None:
        pass


@dataclass
class SlowSnapshot:
    """Is written once it may be."""

    version: int
    log: list[str]
    may_end: threading.Event
    fails: bool = False

    def write(self, target: Path) -> tuple[WeightFile, ...]:
        self.log.append(f"write {self.version}")
        assert self.may_end.wait(20)
        if self.fails:
            raise OSError("no space left on device")
        self.log.append(f"written {self.version}")
        return (WeightFile("model.safetensors", 1, str(self.version)),)


@dataclass
class Held:
    """An updater whose snapshots are slow."""

    log: list[str]
    may_end: threading.Event = field(default_factory=threading.Event)
    version: int = 0
    fails: bool = False

    def snapshot(self) -> SlowSnapshot:
        self.log.append(f"copy {self.version}")
        return SlowSnapshot(self.version, self.log, self.may_end, self.fails)


@contextlib.asynccontextmanager
async def publishing(folder: Path, log: list[str]) -> AsyncIterator[Publisher]:
    async def send(message: AnyMessage) -> None:
        assert isinstance(message, Published)
        log.append(f"announced {message.version}")

    publisher = Publisher(folder / "weights", folder / "model", 1, SilentBroadcaster(), send)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(publisher.run())
        yield publisher
        running.cancel()


async def test_training_goes_on_while_a_version_is_written_and_the_next_copy_waits(tmp_path: Path) -> None:
    log: list[str] = []
    held = Held(log)
    async with publishing(tmp_path, log) as publisher:
        held.version = 1
        await publisher.publish(held)
        held.version = 2
        second = asyncio.create_task(publisher.publish(held))
        await asyncio.sleep(0.1)
        assert log == ["copy 1", "write 1"]
        assert not second.done()
        held.may_end.set()
        await second
        await publisher.settled()
    assert log == [f"{what} {version}" for version in (1, 2) for what in ("copy", "write", "written", "announced")]


async def test_a_version_that_cannot_be_written_ends_the_trainer(tmp_path: Path) -> None:
    log: list[str] = []
    held = Held(log, version=1, fails=True)
    held.may_end.set()

    async def publish() -> None:
        async with publishing(tmp_path, log) as publisher:
            await publisher.publish(held)
            await publisher.settled()

    with pytest.raises(ExceptionGroup) as failed:
        await publish()
    assert isinstance(failed.value.exceptions[0], OSError)
    assert log == ["copy 1", "write 1"]


async def test_what_is_being_written_when_a_run_is_interrupted_is_brought_to_its_end_and_not_announced(
    tmp_path: Path,
) -> None:
    log: list[str] = []
    held = Held(log, version=1)
    async with publishing(tmp_path, log) as publisher:
        await publisher.publish(held)
        publisher.end()
        held.may_end.set()
        await publisher.settled()
    assert log == ["copy 1", "write 1", "written 1"]


@dataclass
class ScriptedSession:
    """A gateway's words, one after the other, and what the trainer says."""

    welcome: Welcome
    says: asyncio.Queue[AnyMessage] = field(default_factory=asyncio.Queue)
    heard: list[AnyMessage] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> AnyMessage:
        return await self.says.get()

    async def send(self, message: AnyMessage) -> None:
        self.heard.append(message)
        if isinstance(message, BatchRequest):
            self.asked.set()

    async def next_question(self) -> None:
        async with asyncio.timeout(30):
            await self.asked.wait()
        self.asked.clear()


def ensured_keys(folder: Path) -> Path:
    create_keys(folder)
    return folder


def identity_of_file(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


async def test_a_trainer_that_is_welcomed_again_announces_its_version_and_leaves_the_files_alone(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    updater = PolicyUpdater(SETTINGS, model)
    updater.update(1, play_batch(1))
    updater.save_checkpoint(checkpoint.folder(tmp_path, 1))
    welcome = Welcome(1, 1, "run", config.to_json(SETTINGS), "", 0, str(model), 1, 1, 1.0)
    session = ScriptedSession(welcome)
    keys = load_client_keys(ensured_keys(tmp_path / "keys"), Role.ACTOR)
    trainer = Trainer(TrainerOptions("tcp://127.0.0.1:1", keys, tmp_path), session)  # type: ignore[arg-type]
    running = asyncio.create_task(trainer.run())
    await session.next_question()
    weights = tmp_path / "weights" / "v1" / "model.safetensors"
    first = identity_of_file(weights)

    session.says.put_nowait(welcome)
    await session.next_question()
    assert identity_of_file(weights) == first, "hosts may be reading it"

    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    session.says.put_nowait(welcome)
    await session.next_question()
    assert identity_of_file(weights) != first, "it was damaged"

    session.says.put_nowait(Shutdown("done", 0))
    assert await running == 0
    published = [message for message in session.heard if isinstance(message, Published)]
    assert [message.version for message in published] == [1, 1, 1]
    assert {message.files for message in published} == {weight_files(weights.parent)}
    assert [type(message) for message in session.heard] == [Published, BatchRequest] * 3
