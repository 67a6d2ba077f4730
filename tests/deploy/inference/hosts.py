"""An inference host under test: the real agent with the embedded engine, and a gateway with a script."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from lamer.common.messages import Hello, HostStatus, ServerInfo, Shutdown, WeightAnnouncement
from lamer.common.settings import InferenceSettings, Settings
from lamer.common.weights import WeightFile, weight_files
from lamer.deploy.inference.engines.launch import embedded_launch
from lamer.deploy.inference.engines.options import EngineOptions, HostOptions, Start
from lamer.deploy.inference.joining import run_host
from tests.actors.scripted_gateway import ScriptedGateway, scripted_gateway
from tests.contract.served import reference_logprobs

SECONDS = 60.0
ON_ITS_WAY_SECONDS = 5.0
"""How long a report may take to come in after the host that sent it has ended."""
PROMPT = list(range(5, 25))
SETTINGS = Settings(inference=InferenceSettings(max_running=8, cache_tokens=4096, delivery="path"))


def announce(
    folder: Path, version: int, lineage: int = 0, files: tuple[WeightFile, ...] | None = None
) -> WeightAnnouncement:
    """The weights of a folder as they are, or as `files` says they are."""
    return WeightAnnouncement(version, str(folder), weight_files(folder) if files is None else files, lineage)


@dataclass
class HostScene:
    """A host at work."""

    gateway: ScriptedGateway
    host: asyncio.Task[int]
    others: frozenset[int]  # engines of other tests that were there before

    @property
    def hello(self) -> Hello:
        return self.gateway.hellos[-1]

    async def status(self, wanted: Callable[[HostStatus], bool], seconds: float = SECONDS) -> HostStatus:
        """The first report of this kind among those to come; fails when the host ends before."""
        async with asyncio.timeout(seconds):
            while True:
                message = asyncio.create_task(self.gateway.inbox.get())
                await asyncio.wait({message, self.host}, return_when=asyncio.FIRST_COMPLETED)
                if not message.done():
                    await asyncio.wait({message}, timeout=ON_ITS_WAY_SECONDS)
                if not message.done():
                    message.cancel()
                    raise AssertionError(f"the host ended: {self.host.result()}")
                if isinstance(message.result(), HostStatus) and wanted(message.result()):
                    return message.result()

    async def holds(self, weights: WeightAnnouncement) -> ServerInfo:
        """Announce weights; the server, once it is said to hold them."""
        self.gateway.send(weights)
        return await self.ready_at(weights.version)

    async def ready_at(self, version: int) -> ServerInfo:
        status = await self.status(lambda each: each.is_ready and each.server.policy_version == version)
        return status.server

    async def error(self, said: str) -> HostStatus:
        """The first report of an error that says so."""
        return await self.status(lambda each: said in each.error)

    def engine(self) -> psutil.Process:
        """The server's process."""
        return next(each for each in engines() if each.pid not in self.others)

    async def finish(self) -> int:
        self.gateway.send(Shutdown("done", 0))
        return await asyncio.wait_for(self.host, 20.0)


def engines() -> list[psutil.Process]:
    """The inference servers that this process has started."""
    return [each for each in psutil.Process(os.getpid()).children() if is_engine(each)]


def is_engine(process: psutil.Process) -> bool:
    """Whether this is an inference server, embedded or SGLang."""
    command = process.cmdline()
    return "lamer.deploy.inference.embedded" in command or any(
        word.endswith("sglang_guard/start.py") for word in command
    )


async def ask(server: ServerInfo, route: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
    """A request with the key that actors get; the answer's body."""
    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request("GET" if body is None else "POST", server.url + route, json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def serves(server: ServerInfo, folder: Path) -> bool:
    """Whether the server computes with the weights in `folder`, whatever it says that they are."""
    sampling = {"max_new_tokens": 6, "temperature": 0.0, "ignore_eos": True}
    reply = await ask(server, "/generate", {"input_ids": PROMPT, "sampling_params": sampling, "return_logprob": True})
    ids = reply["output_ids"]
    full = reference_logprobs(folder, [*PROMPT, *ids], 1.0)
    wanted = full[np.arange(len(PROMPT) - 1, len(PROMPT) + len(ids) - 1), ids]
    logprobs = np.array([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]])
    return bool(np.abs(logprobs - wanted).max() < 1e-3)


@contextlib.asynccontextmanager
async def host_scene(folder: Path, settings: Settings = SETTINGS, **options: object) -> AsyncIterator[HostScene]:
    """A host that has joined. options: fields of `HostOptions`."""
    others = frozenset(each.pid for each in engines())
    async with scripted_gateway(folder / "keys", folder / "model", settings) as gateway:
        cache = folder / "cache"
        made = HostOptions(gateway.url, gateway.host_keys, "host-1", "127.0.0.1", 0, cache=cache)
        host = asyncio.create_task(run_host(replace(made, **options)))  # type: ignore[arg-type]
        greeted = asyncio.create_task(gateway.greeted.wait())
        try:
            await asyncio.wait({host, greeted}, timeout=20.0, return_when=asyncio.FIRST_COMPLETED)
            if host.done():
                host.result()
            yield HostScene(gateway, host, others)
        finally:
            greeted.cancel()
            host.cancel()
            await asyncio.gather(host, greeted, return_exceptions=True)


def start_server(folder: Path, port: int, api_key: str, admin_key: str) -> subprocess.Popen[bytes]:
    """An embedded engine that somebody else starts, in place of SGLang."""
    options = EngineOptions("embedded", "127.0.0.1", port, 8, 4096)
    launch = embedded_launch(options, Start(folder, "default", port, api_key, admin_key))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **launch.environment}
    return subprocess.Popen(launch.command, env=environment, stdout=subprocess.DEVNULL)
