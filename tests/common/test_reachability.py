"""What is said of an address that can't be talked to, with real sockets."""

from __future__ import annotations

import asyncio
import socket

from lamer.common.reachability import why_unreachable
from lamer.common.transport import RouterEndpoint, make_key_pair


async def test_a_port_at_which_nothing_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and never listens
        port = bound.getsockname()[1]
        assert f"127.0.0.1 is there, but nothing listens at port {port}" in await why_unreachable(
            f"tcp://127.0.0.1:{port}"
        )


async def test_a_name_that_no_machine_has() -> None:
    said = await why_unreachable("tcp://no-such-machine.invalid:5555")
    assert "no-such-machine.invalid" in said


async def test_a_listener_that_is_no_learner() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await why_unreachable(f"tcp://127.0.0.1:{port}")
    assert said == f"what listens at 127.0.0.1 port {port} is no learner"


async def test_a_learners_socket_is_in_nobodys_way() -> None:
    router = RouterEndpoint("tcp://127.0.0.1", 0, make_key_pair(), lambda _key: True)
    try:
        assert await why_unreachable(router.url) == ""
    finally:
        router.close()


async def test_an_address_without_a_usable_port() -> None:
    assert "names no port" in await why_unreachable("tcp://127.0.0.1:99999")
