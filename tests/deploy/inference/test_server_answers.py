"""What an inference server answers is bytes of another process: bounded, and refused where it can not be read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lamer.actors.generation import BadAnswer
from lamer.actors.inference import InferenceClient, InferenceOptions
from lamer.common.messages import ServerInfo
from lamer.deploy.inference.engines import client as administration
from lamer.deploy.inference.engines.client import ServerClient, ServerRefused
from tests.actors.test_inference import request as make_request

NESTED = b'{"loads":' + b"[" * 100_000


@contextlib.asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[str]:
    """A server that answers everything with `data`."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=data)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.mark.parametrize("data", [b"", b"[]", b"garbage", NESTED])
async def test_a_host_takes_an_answer_that_can_not_be_read_for_a_refusal(data: bytes) -> None:
    async with answering(data) as url:
        client = ServerClient(url, "", "")
        with pytest.raises(ServerRefused, match="answered what is no Loads"):
            await client.loads()
        await client.close()


async def test_a_host_reads_no_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "MAX_ANSWER_BYTES", 1000)
    async with answering(b" " * 1001) as url:
        client = ServerClient(url, "", "")
        with pytest.raises(ServerRefused, match="more than 1000 bytes"):
            await client.loads()
        await client.close()


@pytest.mark.parametrize("data", [b" " * 1001, NESTED[:1000]])
async def test_an_actor_asks_again_after_an_answer_that_is_endless_or_nested(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer.actors.inference.MAX_ANSWER_BYTES", 1000)
    async with answering(data) as url, InferenceClient(InferenceOptions(10.0, 0), 100) as client:
        with pytest.raises(BadAnswer):
            await client.generate(ServerInfo("s", url, "", 0, 1), make_request())
