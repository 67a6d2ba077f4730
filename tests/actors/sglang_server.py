"""A real HTTP server that speaks SGLang's /generate, and misbehaves when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web

from lamer.actors.generation import GenerateBody
from lamer.common.messages import ServerInfo
from tests.actors.parts import encode

Answer = Callable[[GenerateBody], web.Response]


def completion_json(body: GenerateBody, text: str, version: str = "0", finish: str = "stop") -> web.Response:
    """What a server answers when the policy says `text`."""
    ids = encode(text).tolist() if text else []
    meta = {
        "id": "x",
        "finish_reason": {"type": finish},
        "cached_tokens": len(body.input_ids) // 2,
        "weight_version": version,
        "weight_versions": [{"version": version, "start": 0, "end": len(ids)}] if ids else [],
        "output_token_logprobs": [[-0.5, token, None] for token in ids],
    }
    return web.json_response({"text": text, "output_ids": ids, "meta_info": meta})


def saying(text: str, version: str = "0", finish: str = "stop") -> Answer:
    return lambda body: completion_json(body, text, version, finish)


def refusing(status: int, message: str) -> Answer:
    return lambda _: web.json_response({"error": {"message": message}}, status=status)


class SglangServer:
    """Answers with `script` in order, then with `always`. Holds every request while `gate` is closed."""

    def __init__(self, always: Answer, api_key: str = "") -> None:
        self.always = always
        self.script: deque[Answer] = deque()
        self.bodies: list[GenerateBody] = []
        self.peers: set[tuple[str, int]] = set()
        self.disconnected = asyncio.Event()
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self._api_key = api_key

    def info(self, name: str = "s", api_key: str = "", version: int = 0) -> ServerInfo:
        return ServerInfo(name, self.url, api_key or self._api_key, version, 8)

    async def generate(self, request: web.Request) -> web.Response:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = msgspec.json.decode(await request.read(), type=GenerateBody)
        self.bodies.append(body)
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        self.arrived.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.disconnected.set()
            raise
        answer = self.script.popleft() if self.script else self.always
        return answer(body)


@contextlib.asynccontextmanager
async def serving(always: Answer, api_key: str = "") -> AsyncIterator[SglangServer]:
    """A server on a free port of this machine."""
    server = SglangServer(always, api_key)
    app = web.Application()
    app.router.add_post("/generate", server.generate)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()
