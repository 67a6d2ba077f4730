"""What a gateway answers in the background has an owner: a failure reaches who asked, or the log."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from lamer.common.errors import BadInput
from lamer.common.keys import Client
from lamer.common.messages import (
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    Role,
    Status,
    StatusRequest,
    WeightAnnouncement,
    WeightManifest,
)
from lamer.learner.gateway.hosts import MOST_QUESTIONS, Hosts
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.gateway.weights.serving import StreamServer
from tests.learner.scripted import FILES, TIMEOUT, hello, make_run


async def test_an_actor_that_can_not_be_given_the_models_files_is_told_why(tmp_path: Path) -> None:
    """The folder is gone by the time that an actor on another machine asks; the run goes on."""
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as session, run.session(Role.OBSERVER) as observer:
            shutil.rmtree(run.plan.model_path)
            with pytest.raises(BadInput, match=r"the files of the run's model in .*model can't be had: .*No such file"):
                await session.ask(ModelFilesRequest(), ModelFiles)
            assert (await observer.ask(StatusRequest(), Status)).run == "test-1"
        run.stop.set()


async def test_what_nobody_foresaw_in_an_answer_costs_the_asker_its_answer_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hosts, running = await _answering(tmp_path, Broken)
    hosts.answer(Peer("host:1", Client("host", Role.HOST, "key"), b"1", hello(Role.HOST)), ManifestRequest("wanted"))
    async with asyncio.timeout(TIMEOUT):
        while "ManifestRequest from host host could not be dealt with" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "ZeroDivisionError" in caplog.text
    assert not running.done()
    running.cancel()
    await hosts.close()


async def test_a_host_has_a_bounded_number_of_questions_open(tmp_path: Path) -> None:
    hosts, running = await _answering(tmp_path, Slow)
    for number in range(10 * MOST_QUESTIONS):
        hosts.answer(
            Peer("host:1", Client("host", Role.HOST, "key"), b"1", hello(Role.HOST)), ManifestRequest(str(number))
        )
    other = Peer("host:2", Client("host", Role.HOST, "key"), b"2", hello(Role.HOST))
    hosts.answer(other, ManifestRequest("another's"))
    await asyncio.sleep(0)
    assert len(Slow.asked) == MOST_QUESTIONS + 1
    running.cancel()
    await hosts.close()


class Broken(StreamServer):
    async def manifest(self, request: ManifestRequest) -> WeightManifest:
        raise ZeroDivisionError


class Slow(StreamServer):
    asked: ClassVar[list[str]] = []

    async def manifest(self, request: ManifestRequest) -> WeightManifest:
        self.asked.append(request.identity)
        await asyncio.Event().wait()
        raise AssertionError


async def _answering(tmp_path: Path, kind: type[StreamServer]) -> tuple[Hosts, asyncio.Task[None]]:
    run = make_run(tmp_path)
    weights, peers = Announcer(WeightAnnouncement(0, "weights", FILES), None), PeerTable()
    link = Link(None, peers, 1.0, 0.1)  # type: ignore[arg-type] - nothing is sent
    hosts = Hosts(Path(run.plan.model_path), weights, kind(weights, tmp_path / "stream"), peers, link, lambda: None)
    running = asyncio.create_task(hosts.run())
    await asyncio.sleep(0)
    return hosts, running
