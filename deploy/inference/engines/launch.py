"""Starting an inference server as a child process: the command line of each engine, its keys and its readiness.

Both engines speak SGLang's HTTP contract, so that everything after the start is one code path
(`deploy.inference.engines.client`). Both keys are random, new with each start, and on no command line: the embedded
engine gets them in its environment, SGLang in a file that is removed once it has started. The api key is handed to
actors, the admin key stays here. The server's output goes where ours goes; its last error is quoted when it does not
start. It dies with this process, whatever ends that (`deploy.run.processes`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import signal
import socket
import ssl
import sys
from asyncio.subprocess import Process
from pathlib import Path

from lamer.common.errors import BadInput, LamerError, Missing, RunFailed
from lamer.common.versions import to_weight_version
from lamer.deploy.inference.engines import sglang
from lamer.deploy.inference.engines.base import Idling
from lamer.deploy.inference.engines.client import ServerClient, trusting
from lamer.deploy.inference.engines.options import EngineLaunch, EngineOptions, Start
from lamer.deploy.run import processes
from lamer.deploy.run.precision import AUTO, FLOAT32

log = logging.getLogger("lamer.host")

START_SECONDS = 600.0
STOP_SECONDS = 3.0
_CHUNK_BYTES = 65536
_PROGRESS_BAR = re.compile(r"\r?[^\r\n]*\d+% Completed \|[^\r\n]*")
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


def embedded_launch(options: EngineOptions, start: Start) -> EngineLaunch:
    """How the embedded engine is started."""
    return EngineLaunch(
        command=(
            *(sys.executable, "-P", "-m", "lamer.deploy.inference.embedded", "--model-path", str(start.folder)),
            *("--host", options.host, "--port", str(start.port), "--weight-version", start.weight_version),
            *("--max-running-requests", str(options.max_running), "--max-total-tokens", str(options.cache_tokens)),
            *("--dtype", FLOAT32 if options.dtype == AUTO else options.dtype, "--threads", "1"),
        ),
        environment={"SGLANG_API_KEY": start.api_key, "SGLANG_ADMIN_KEY": start.admin_key},
        crash_line=_ERROR_LINE,
    )


class Launcher:
    """Starts servers, one after the other."""

    is_owned = True

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    async def open(self, folder: Path, version: int) -> EngineProcess:
        """Start a server on a model folder and wait until it answers.

        Raises:
            Missing: the port is taken, or the engine is not installed or stays silent. BadInput: it refuses the model
            folder or a flag. RunFailed: it died while starting.
        """
        options = self._options
        port = _find_port(options)
        start = Start(folder, to_weight_version(version), port, secrets.token_hex(16), secrets.token_hex(16))
        is_sglang = options.engine == "sglang"
        tls = trusting(options.tls_cert) if options.tls_cert is not None else None
        launch = await sglang.launch(options, start) if is_sglang else embedded_launch(options, start)
        try:
            process = await processes.start(launch.command, pipes_errors=True, environment=launch.environment)
            engine = EngineProcess(process, options, start, tls, launch.crash_line)
            try:
                await engine.wait_ready(is_sglang)
            except BaseException:
                await engine.stop()
                raise
        finally:
            launch.remove_keys()
        return engine


def _find_port(options: EngineOptions) -> int:
    if options.port and port_is_taken(options.host, options.port):
        raise Missing(
            f"port {options.port} on {options.host} is taken: choose another with --port, or 0 for a free one"
        )
    try:
        return options.port or free_port(options.host)
    except OSError as error:
        raise BadInput(f"--host {options.host} is no address of this machine: {error.strerror or error}") from error


class EngineProcess:
    """A running inference server and a client for it. Made by `Launcher.open`; ended by `stop`."""

    is_loaded = True

    def __init__(
        self,
        process: Process,
        options: EngineOptions,
        start: Start,
        tls: ssl.SSLContext | None,
        crash_line: re.Pattern[str],
    ) -> None:
        """Take over a process that was started just now. tls: what our client trusts, None for plain HTTP."""
        own_url = f"{'https' if tls else 'http'}://{options.host}:{start.port}"
        self.client = ServerClient(own_url, start.api_key, start.admin_key, tls)
        self.process = process
        self.api_key = start.api_key
        self.url = options.public_url or own_url
        self.max_running = options.max_running
        self.release: sglang.Release | None = None
        self._crash_line = crash_line
        self._said = b""
        self._is_ready = self._is_stopped = False
        self._relaying = asyncio.create_task(self._relay(), name="the server's stderr")

    def update_mode(self, wanted: str) -> str:
        """How a weight update may pause this server, when the run wants `wanted`."""
        return self.release.update_mode(wanted) if self.release is not None else wanted

    @property
    def idling(self) -> Idling:
        """How it is brought to have nothing in flight."""
        return self.release.idling if self.release is not None else Idling.ITSELF

    async def ended(self) -> str:
        """Wait until the process ends; its code, in words."""
        return f"it ended with code {await self.process.wait()}"

    async def _get_ready(self, is_sglang: bool) -> None:
        await self.client.wait_ready(START_SECONDS)
        if is_sglang:
            self.release = await sglang.check(self.client)

    async def wait_ready(self, is_sglang: bool) -> None:
        """Wait until it answers.

        Raises:
            Missing, BadInput, RunFailed: as `Launcher.open` says.
        """
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
        if self._is_stopped:
            return
        self._is_stopped = True
        await self.client.close()
        await processes.end_all([self.process], STOP_SECONDS, signal.SIGTERM)
        processes.kill_session(self.process)  # what it left behind if it ended by itself
        await self._relaying


def _print(errors: bytes) -> None:
    """On our stderr, but for progress bars, which SGLang draws at every load of weights."""
    said = _PROGRESS_BAR.sub("", errors.decode(errors="replace"))
    if said.strip():
        sys.stderr.write(said)
        sys.stderr.flush()
