"""Starting an inference server as a child process: the command line of each engine, its keys and its readiness.

Both engines speak SGLang's HTTP contract, so that everything after the start is one code path
(`deploy.inference.client`). The admin key is random and stays in this process and the server's arguments; the api key
is handed to actors. The server's output goes where ours goes; its last error is quoted when it does not start. It
dies with this process, whatever ends that (`deploy.processes`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
import socket
import sys
from asyncio.subprocess import Process

from common.errors import BadInput, LamerError, Missing, RunFailed
from deploy import processes
from deploy.inference import sglang
from deploy.inference.client import ServerClient
from deploy.inference.options import EngineLaunch, EngineOptions

log = logging.getLogger("lamer.host")

START_SECONDS = 600.0
STOP_SECONDS = 3.0
_CHUNK_BYTES = 65536
_KEPT_ERROR_BYTES = 8192
_ERROR_LINE = re.compile(r"(?<=error: ).+$", re.MULTILINE)


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


def embedded_launch(options: EngineOptions, port: int, api_key: str, admin_key: str) -> EngineLaunch:
    """How the embedded engine is started, holding policy version 0."""
    return EngineLaunch(
        command=(
            *(sys.executable, "-m", "deploy.inference.embedded", "--model-path", str(options.model_path)),
            *("--host", options.host, "--port", str(port), "--api-key", api_key, "--admin-api-key", admin_key),
            *("--weight-version", "0", "--max-running-requests", str(options.max_running)),
            *("--max-total-tokens", str(options.cache_tokens), "--dtype", "float32", "--threads", "1"),
        ),
        environment={},
        crash_line=_ERROR_LINE,
    )


class EngineProcess:
    """A running inference server and a client for it. Made by `start`; ended by `stop`."""

    def __init__(
        self, process: Process, client: ServerClient, api_key: str, url: str, crash_line: re.Pattern[str]
    ) -> None:
        self.process = process
        self.client = client
        self.api_key = api_key
        self.url = url
        self.release: sglang.Release | None = None
        self._crash_line = crash_line
        self._said = b""
        self._is_ready = False
        self._relaying = asyncio.create_task(self._relay(), name="the server's stderr")

    @classmethod
    async def start(cls, options: EngineOptions) -> EngineProcess:
        """Start a server and wait until it answers.

        Raises:
            Missing: the port is taken, or the engine is not installed or stays silent. BadInput: it refuses the model
            folder or a flag. RunFailed: it died while starting.
        """
        if options.port and port_is_taken(options.host, options.port):
            raise Missing(
                f"port {options.port} on {options.host} is taken: choose another with --port, or 0 for a free one"
            )
        try:
            port = options.port or free_port(options.host)
        except OSError as error:
            raise BadInput(f"--host {options.host} is no address of this machine: {error.strerror or error}") from error
        api_key, admin_key = secrets.token_hex(16), secrets.token_hex(16)
        is_sglang = options.engine == "sglang"
        if is_sglang:
            launch = await sglang.launch(options, port, api_key, admin_key)
        else:
            launch = embedded_launch(options, port, api_key, admin_key)
        process = await processes.start(launch.command, pipes_errors=True, environment=launch.environment)
        url = f"http://{options.host}:{port}"
        engine = cls(process, ServerClient(url, api_key, admin_key), api_key, url, launch.crash_line)
        try:
            await engine._wait_ready(is_sglang)
        except BaseException:
            await engine.stop()
            raise
        return engine

    def update_mode(self, wanted: str) -> str:
        """How a weight update may pause this server, when the run wants `wanted`."""
        return self.release.update_mode(wanted) if self.release is not None else wanted

    async def _get_ready(self, is_sglang: bool) -> None:
        await self.client.wait_ready(START_SECONDS)
        if is_sglang:
            self.release = await sglang.check(self.client)

    async def _wait_ready(self, is_sglang: bool) -> None:
        ended = asyncio.create_task(self.process.wait())
        ready = asyncio.create_task(self._get_ready(is_sglang))
        try:
            await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await self._relaying
                raise self._failure(ended.result())
            ready.result()
            self._is_ready = True
            _print(self._said)
        finally:
            for task in (ended, ready):
                task.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)

    def _failure(self, code: int) -> LamerError:
        """Why the server ended while starting: its own error and exit code; a crash is quoted in full first."""
        kind = {BadInput.exit_code: BadInput, Missing.exit_code: Missing}.get(code, RunFailed)
        text = self._said.decode(errors="replace").strip()
        errors = self._crash_line.findall(text)
        said = errors[-1] if errors else text.rpartition("\n")[2]
        if not errors:
            _print(self._said)
        return kind(f"the inference server ended with code {code} while starting: {said or 'it said nothing'}")

    async def _relay(self) -> None:
        """Pass the server's stderr on until it is closed; what it says while starting is kept until it has started."""
        errors = self.process.stderr
        assert errors is not None
        while chunk := await errors.read(_CHUNK_BYTES):
            if self._is_ready:
                _print(chunk)
            else:
                self._said = (self._said + chunk)[-_KEPT_ERROR_BYTES:]

    async def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL after a few seconds. Harmless when called again."""
        await self.client.close()
        await processes.end_all([self.process], STOP_SECONDS, signal.SIGTERM)
        await self._relaying


def _print(errors: bytes) -> None:
    sys.stderr.write(errors.decode(errors="replace"))
    sys.stderr.flush()
