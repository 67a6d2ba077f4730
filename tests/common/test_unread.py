"""What peers have sent and nobody has received: bounded in bytes, however it is cut into messages and frames."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.common.keys import create_keys, load_client_keys, load_server_keys
from lamer.common.messages import Role
from lamer.common.transport import DealerEndpoint, RouterEndpoint

TIMEOUT = 60.0
MEGABYTE = bytes(1_000_000)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells how much came in on Linux alone")


@contextlib.asynccontextmanager
async def a_router(
    folder: Path, most_unread: int
) -> AsyncIterator[tuple[RouterEndpoint, DealerEndpoint, DealerEndpoint]]:
    """A router that nobody receives from, and two peers that are connected to it."""
    create_keys(folder)
    server = load_server_keys(folder)
    keys = load_client_keys(folder, Role.ACTOR)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits, most_unread=most_unread)
    serving = asyncio.create_task(router.serve(lambda _: None))
    peers = [DealerEndpoint(router.url, keys.pair, keys.server_public) for _ in range(2)]
    try:
        for peer in peers:
            await peer.connected(TIMEOUT)
        yield router, peers[0], peers[1]
    finally:
        for peer in peers:
            peer.close(linger_ms=0)
        serving.cancel()
        await asyncio.wait([serving])
        router.close()


@pytest.mark.parametrize("frames", [1, 40], ids=["many messages", "one message of many frames"])
async def test_who_sends_more_than_is_received_is_hung_up_on_and_others_stay(tmp_path: Path, frames: int) -> None:
    async with a_router(tmp_path, most_unread=8_000_000) as (router, honest, hostile):
        await honest.send(b"before")
        for _ in range(40 // frames):
            await hostile._socket.send_multipart([MEGABYTE] * frames)
        await asyncio.wait_for(hostile.lost(), TIMEOUT)
        await honest.send(b"after")
        said = [(await asyncio.wait_for(router.receive(), TIMEOUT)).data]
        while said[-1] != b"after":
            said.append((await asyncio.wait_for(router.receive(), TIMEOUT)).data)
        assert [data for data in said if 0 < len(data) < 100] == [b"before", b"after"]


async def test_what_is_received_does_not_count(tmp_path: Path) -> None:
    async with a_router(tmp_path, most_unread=8_000_000) as (router, one, _):
        lost = asyncio.create_task(one.lost())
        for number in range(40):
            await one.send(MEGABYTE)
            assert len((await asyncio.wait_for(router.receive(), TIMEOUT)).data) == len(MEGABYTE)
            if number % 10 == 0:
                await asyncio.sleep(0.3)  # the bound is looked at four times a second
        assert not lost.done()
        lost.cancel()


async def test_what_peers_left_that_are_gone_makes_newcomers_wait_until_it_is_received(tmp_path: Path) -> None:
    async with a_router(tmp_path, most_unread=8_000_000) as (router, honest, _):
        keys = load_client_keys(tmp_path, Role.ACTOR)
        for _ in range(40):
            peer = DealerEndpoint(router.url, keys.pair, keys.server_public)
            with contextlib.suppress(Missing):  # the door may be closed by now
                await peer.connected(1.0)
                for _ in range(6):
                    await peer.send(MEGABYTE)
                await asyncio.sleep(0.05)
            peer.close()
            if router._gate.is_paused:
                break
        assert router._gate.is_paused, "newcomers are let in, whatever those before them left"
        heard: list[bytes] = []

        async def receive() -> None:
            while True:
                heard.append((await router.receive()).data)

        receiving = asyncio.create_task(receive())
        await honest.send(b"still here")
        async with asyncio.timeout(TIMEOUT):
            while router._gate.is_paused or b"still here" not in heard:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        receiving.cancel()


async def test_a_message_of_many_frames_is_no_message_and_keeps_nobody_from_work(tmp_path: Path) -> None:
    async with a_router(tmp_path, most_unread=1_000_000_000) as (router, honest, hostile):
        turns = 0

        async def work() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        working = asyncio.create_task(work())
        await hostile._socket.send_multipart([b""] * 50_000)
        received = await asyncio.wait_for(router.receive(), TIMEOUT)
        before = turns
        assert received.data == b""
        await honest.send(b"next")
        assert (await asyncio.wait_for(router.receive(), TIMEOUT)).data == b"next"
        assert before > 0
        working.cancel()
