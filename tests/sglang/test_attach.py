"""The real SGLang under a host agent: attached to, killed and started again; launched with TLS and flags of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lamer.common.messages import ServerInfo
from lamer.deploy.inference.engines import sglang
from lamer.deploy.inference.engines.client import trusting
from lamer.deploy.inference.engines.launch import free_port
from lamer.deploy.inference.engines.options import EngineOptions, ServerKeys, Start
from tests.contract.served import HOST, START_SECONDS, write_models
from tests.deploy.inference.hosts import SETTINGS, announce, ask, host_scene, serves

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(2 * START_SECONDS)]
API, ADMIN = "key-of-actors", "key-of-the-host"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


class Somebody:
    """Who runs SGLang, with keys of their own."""

    def __init__(self, folder: Path) -> None:
        port = free_port(HOST)
        self.url = f"http://{HOST}:{port}"
        self._options = EngineOptions("sglang", HOST, port, 8, 8192)
        self._start = Start(folder, "default", port, API, ADMIN)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and do not wait."""
        launch = await sglang.launch(self._options, self._start)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **launch.environment}
        self._process = subprocess.Popen(  # noqa: ASYNC220
            launch.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        """Kill it with its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def somebody(models: dict[str, Path]) -> Iterator[Somebody]:
    made = Somebody(models["base"])
    yield made
    made.kill()


async def wait_healthy(url: str) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(START_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url + "/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)


async def test_a_server_that_was_killed_and_started_again_is_loaded_before_it_gets_work(
    tmp_path: Path, models: dict[str, Path], somebody: Somebody
) -> None:
    await somebody.start()
    await wait_healthy(somebody.url)
    async with host_scene(tmp_path, attach=somebody.url, server_keys=ServerKeys(API, ADMIN)) as scene:
        server = await scene.holds(announce(models["other"], 3))
        assert (await ask(server, "/model_info"))["weight_version"] == "3"
        assert await serves(server, models["other"])
        assert server.max_running == 8

        somebody.kill()
        assert not (await scene.error("does not answer any more")).is_ready
        scene.gateway.send(announce(models["base"], 4))
        await somebody.start()
        await scene.status(lambda each: each.is_ready and each.server.policy_version == 4, START_SECONDS)
        assert await serves(server, models["base"])


async def test_a_server_is_launched_with_tls_and_flags_and_survives_a_kill(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(  # noqa: ASYNC221
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=gpu.example", "-days", "2",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = replace(SETTINGS, inference=replace(SETTINGS.inference, engine="sglang"))
    extra = ("--chunked-prefill-size", "512")
    async with host_scene(tmp_path, settings, tls_cert=certificate, tls_key=key, extra=extra) as scene:
        scene.gateway.send(announce(models["base"], 5))
        status = await scene.status(lambda each: each.is_ready, START_SECONDS)
        assert status.server.url.startswith("https://")
        info = await get(status.server, "/server_info", certificate)
        assert (info["weight_version"], info["chunked_prefill_size"]) == ("5", 512)

        scene.gateway.send(announce(models["other"], 6))
        await scene.ready_at(6)
        scene.engine().kill()
        await scene.error("ended with code -9")
        status = await scene.status(lambda each: each.is_ready, START_SECONDS)
        info = await get(status.server, "/model_info", certificate)
        assert info["weight_version"] == "6"


async def get(server: ServerInfo, route: str, certificate: Path) -> Any:  # noqa: ANN401 - JSON
    """A GET over TLS by a client that trusts the certificate."""
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(server.url + route, ssl=trusting(certificate)) as answer,
    ):
        assert answer.status == 200
        return await answer.json()
