"""What a gateway answers in the background has an owner: a failure reaches who asked, or ends the run."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

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
)
from lamer.learner.gateway.hosts import Hosts
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


async def test_what_nobody_foresaw_in_an_answer_ends_the_gateways_task(tmp_path: Path) -> None:
    class Broken(StreamServer):
        async def manifest(self, request: ManifestRequest) -> None:  # type: ignore[override]
            raise ZeroDivisionError

    run = make_run(tmp_path)
    weights, peers = Announcer(WeightAnnouncement(0, "weights", FILES), None), PeerTable()
    link = Link(None, peers, 1.0, 0.1)  # type: ignore[arg-type] - nothing is sent
    hosts = Hosts(Path(run.plan.model_path), weights, Broken(weights, tmp_path / "stream"), peers, link, lambda: None)
    running = asyncio.create_task(hosts.run())
    await asyncio.sleep(0)
    hosts.answer(Peer("host:1", Client("host", Role.HOST, "key"), b"1", hello(Role.HOST)), ManifestRequest("wanted"))
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(running, TIMEOUT)
    assert caught.group_contains(ZeroDivisionError)
    await hosts.close()
