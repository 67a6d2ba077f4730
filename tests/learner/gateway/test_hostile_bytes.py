"""What a peer with a valid key can send: it ends neither the gateway nor anybody's part in the run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from math import nan
from pathlib import Path

import msgpack
import msgspec
import pytest

from lamer.common.codec import MAX_MESSAGE_BYTES, CodecError, decode_message, encode_message
from lamer.common.errors import BadInput
from lamer.common.keys import Client
from lamer.common.liveness.line_budget import LINES
from lamer.common.messages import (
    HostStatus,
    ModelFiles,
    ModelFilesRequest,
    Role,
    ServerInfo,
    Servers,
    Shutdown,
    Status,
    StatusRequest,
    TrialFailed,
    UpdateReport,
)
from lamer.common.session import Session
from lamer.common.transport import DealerEndpoint
from lamer.learner.gateway.gateway import Gateway
from lamer.learner.gateway.peers import Link, PeerTable
from lamer.learner.gateway.progress import UpdateReports
from tests.common.test_codec import NESTED
from tests.learner.scripted import TIMEOUT, Run, hello, make_run


@contextlib.asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Run, Session]]:
    """A run under way, and an observer of it."""
    run = make_run(folder)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.OBSERVER) as observer:
            yield run, observer
        run.stop.set()


@contextlib.asynccontextmanager
async def raw(run: Run) -> AsyncIterator[DealerEndpoint]:
    """A client that sends bytes."""
    keys = run.keys(Role.ACTOR)
    endpoint = DealerEndpoint(await run.url(), keys.pair, keys.server_public)
    try:
        await endpoint.connected(TIMEOUT)
        yield endpoint
    finally:
        endpoint.close()


async def test_frames_nested_beyond_the_stack_end_nothing_before_or_after_hello(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (run, observer), raw(run) as client:
        await client.send(NESTED)
        await client.send(encode_message(hello(Role.ACTOR, capacity=1)))
        await client.send(NESTED)
        await client.send(b"\x81" * 100_000)
        await client.send(msgpack.packb({"type": "Heartbeat", "in_flight": 2**64 - 1}))
        await client.send(encode_message(ModelFilesRequest()))
        while b"ModelFiles" not in await client.receive():
            pass
        assert (await observer.ask(StatusRequest(), Status)).actors == 1


async def test_a_message_that_the_gateway_fails_on_costs_its_sender_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours that a peer finds: planted here, since none is known."""

    async def fail(self: Gateway, peer: object, message: object) -> None:
        if isinstance(message, TrialFailed):
            raise ZeroDivisionError("nobody foresaw it")
        await handle(self, peer, message)  # type: ignore[arg-type]

    handle = Gateway._handle_work
    monkeypatch.setattr(Gateway, "_handle_work", fail)
    async with gateway(tmp_path) as (run, observer), run.session(Role.ACTOR, "a", capacity=1) as actor:
        await actor.send(TrialFailed("test-1/train/0/0", "forged"))
        await actor.ask(ModelFilesRequest(), ModelFiles)
        assert (await observer.ask(StatusRequest(), Status)).actors == 1
    assert "a TrialFailed from actor a could not be dealt with" in caplog.text
    assert "nobody foresaw it" in caplog.text


async def test_a_defect_that_the_trainer_finds_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run would stand still without what its trainer says; it ends with one error, not with a group of them."""

    def fail(self: UpdateReports, report: UpdateReport, now: float) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(UpdateReports, "take", fail)
    run = make_run(tmp_path)
    running = asyncio.create_task(run.gateway())
    async with asyncio.timeout(TIMEOUT), run.session(Role.TRAINER) as trainer:
        await trainer.send(UpdateReport(1, ()))
        while not isinstance(message := await trainer.receive(), Shutdown):
            pass
        assert message.exit_code == 1
        with pytest.raises(Exception, match="ZeroDivisionError: nobody foresaw it") as caught:
            await running
    assert type(caught.value).__name__ == "RunFailed"


def test_what_too_many_peers_made_too_big_is_told_to_nobody_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    peers = PeerTable()
    peer = peers.welcome(b"1", hello(Role.ACTOR, capacity=1), Client("actor", Role.ACTOR, "key"))
    link = Link(None, peers, 1.0, 0.1)  # type: ignore[arg-type] - nothing is sent
    link.broadcast(Servers((ServerInfo("s", "u" * (MAX_MESSAGE_BYTES + 1), "", 0, 1),)))
    assert "actor actor is not told: a Servers of" in caplog.text
    assert peer.is_reachable


@pytest.mark.parametrize(("length", "is_taken"), [(2048, True), (2049, False)])
def test_what_every_actor_is_told_of_a_server_is_short(length: int, is_taken: bool) -> None:
    status = encode_message(HostStatus(ServerInfo("s", "u" * length, "", 0, 1), is_ready=True))
    with contextlib.nullcontext() if is_taken else pytest.raises(CodecError, match="length <= 2048"):
        decode_message(status)


@pytest.mark.parametrize(("seconds", "is_taken"), [(0.0, True), (1e9, True), (-1.0, False), (2e9, False), (nan, False)])
def test_what_a_host_measured_is_a_finite_number(seconds: float, is_taken: bool) -> None:
    status = encode_message(HostStatus(ServerInfo("s", "", "", 0, 1), is_ready=True, pause_seconds=seconds))
    with contextlib.nullcontext() if is_taken else pytest.raises(CodecError, match="pause_seconds"):
        decode_message(status)


@pytest.mark.parametrize("name", ["", "a" * 129, "actor\n2026 lamer.gateway the run is over", "a\x1b[2J", "a\u2028b"])
async def test_a_name_that_could_forge_a_line_is_refused_at_both_ends(tmp_path: Path, name: str) -> None:
    async with gateway(tmp_path) as (run, observer), raw(run) as client:
        odd = msgspec.structs.replace(hello(Role.ACTOR, capacity=1), name=name)
        await client.send(encode_message(odd))
        while b"Reject" not in (answer := await client.receive()):
            pass
        assert b"a name has 1 to 128 characters" in answer
        with pytest.raises(BadInput, match="a name has 1 to 128 characters"):
            await Session.open(await run.url(), run.keys(Role.ACTOR), odd, TIMEOUT)
        assert (await observer.ask(StatusRequest(), Status)).actors == 0


async def test_a_name_of_128_characters_is_taken(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (run, _), run.session(Role.ACTOR, "ä" * 128, capacity=1):
        pass


async def test_a_connection_is_one_process_however_often_it_says_hello(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (run, observer), raw(run) as client:
        for number in range(100):
            odd = msgspec.structs.replace(hello(Role.ACTOR, capacity=1), instance=str(number))
            await client.send(encode_message(odd))
        await client.send(encode_message(ModelFilesRequest()))
        while b"ModelFiles" not in await client.receive():
            pass
        assert (await observer.ask(StatusRequest(), Status)).actors == 1


async def test_a_peer_cannot_fill_the_gateways_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with gateway(tmp_path) as (run, observer), raw(run) as client:
        for _ in range(500):
            await client.send(b"\x93garbage")
        await client.send(encode_message(hello(Role.OBSERVER)))
        await client.receive()
        assert (await observer.ask(StatusRequest(), Status)).run == "test-1"
    assert 0 < sum("malformed message" in line for line in caplog.messages) <= LINES
