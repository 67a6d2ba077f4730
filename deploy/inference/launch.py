"""Starting an inference server as a child process: the command line of each engine, its keys and its readiness.

Both engines speak SGLang's HTTP contract, so that everything after the start is one code path
(`deploy.inference.client`).
The admin key is random and stays in this process and the server's arguments; the api key is handed to actors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path

from common.errors import Missing
from deploy.inference.client import ServerClient

log = logging.getLogger("lamer.host")

START_SECONDS = 600.0
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one inference server is started with. port 0: a free one. max_running: sequences in a batch at once."""

    engine: str
    model_path: Path
    host: str
    port: int
    max_running: int
    cache_tokens: int


def free_port(host: str) -> int:
    """A TCP port that nobody listens on at `host` at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def port_is_taken(host: str, port: int) -> bool:
    """Whether something already listens at `host:port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def embedded_command(options: EngineOptions, port: int, api_key: str, admin_key: str) -> tuple[str, ...]:
    """Arguments that start the embedded engine, holding policy version 0."""
    return (
        *(sys.executable, "-m", "deploy.inference.embedded", "--model-path", str(options.model_path)),
        *("--host", options.host, "--port", str(port), "--api-key", api_key, "--admin-api-key", admin_key),
        *("--weight-version", "0", "--max-running-requests", str(options.max_running)),
        *("--max-total-tokens", str(options.cache_tokens), "--dtype", "float32", "--threads", "1"),
    )


class EngineProcess:
    """A running inference server and a client for it. Made by `start`; ended by `stop`."""

    def __init__(self, process: Process, client: ServerClient, api_key: str, url: str) -> None:
        self.process = process
        self.client = client
        self.api_key = api_key
        self.url = url

    @classmethod
    async def start(cls, options: EngineOptions) -> EngineProcess:
        """Start a server and wait until it answers.

        Raises:
            Missing: the port is taken, the engine is not installed, or it ended or stayed silent while starting.
        """
        if options.engine != "embedded":
            raise Missing(f"engine {options.engine!r} can't be started by this host: use inference.engine=embedded")
        if options.port and port_is_taken(options.host, options.port):
            raise Missing(
                f"port {options.port} on {options.host} is taken: choose another with --port, or 0 for a free one"
            )
        port = options.port or free_port(options.host)
        api_key, admin_key = secrets.token_hex(16), secrets.token_hex(16)
        command = embedded_command(options, port, api_key, admin_key)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        url = f"http://{options.host}:{port}"
        client = ServerClient(url, api_key, admin_key)
        engine = cls(process, client, api_key, url)
        try:
            await engine._wait_ready()
        except BaseException:
            await engine.stop()
            raise
        return engine

    async def _wait_ready(self) -> None:
        ended = asyncio.create_task(self.process.wait())
        ready = asyncio.create_task(self.client.wait_ready(START_SECONDS))
        try:
            await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise Missing(
                    f"the inference server ended with code {ended.result()} while starting; its error is above"
                )
            ready.result()
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)

    async def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL after a few seconds."""
        await self.client.close()
        if self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("the inference server ignored SIGTERM for %.0f s: killing it", STOP_SECONDS)
            self.process.kill()
            await self.process.wait()
