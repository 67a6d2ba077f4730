"""The host agent: one inference server, kept running and holding the run's current policy version.

The agent is the only client of the server's admin routes. It connects to the gateway as a HOST, starts the server,
applies each announced policy version (verified before generation pauses, only the newest when several wait), and
reports. A server that dies is started again and gets no work before it holds the current version again: the gateway
hands it to actors only while the agent's last HostStatus says `is_ready`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from actors.versions import to_weight_version
from common.config import from_json
from common.errors import LamerError, Missing, RunFailed
from common.keys import ClientKeys
from common.messages import (
    PROTOCOL_VERSION,
    Goodbye,
    Hello,
    HostStatus,
    Role,
    ServerInfo,
    Shutdown,
    WeightAnnouncement,
    Welcome,
)
from common.session import Session
from common.settings import InferenceSettings
from deploy.inference.client import ServerRefused
from deploy.inference.launch import EngineProcess
from deploy.inference.options import EngineOptions
from learner.folders import file_digest

log = logging.getLogger("lamer.host")

CONNECT_SECONDS = 30.0
MAX_RESTARTS = 5
MAX_APPLY_TRIES = 3
APPLY_RETRY_SECONDS = 1.0
_SERVER_ERRORS = (ServerRefused, OSError, aiohttp.ClientError)
"""What a request to the server, or reading announced weights, may raise."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How an inference host is started. port 0: a free one. What is None, the run's configuration says."""

    url: str
    keys: ClientKeys
    name: str
    host: str
    port: int
    model_path: str | None = None
    engine: str | None = None
    max_running: int | None = None
    cache_tokens: int | None = None
    update_mode: str | None = None
    sglang_python: str | None = None
    dtype: str | None = None
    tensor_parallel: int | None = None
    data_parallel: int | None = None

    def resolved(self, run: InferenceSettings) -> InferenceSettings:
        """The run's `inference` section with what was named here in its place."""
        return replace(
            run,
            engine=self.engine or run.engine,
            max_running=self.max_running or run.max_running,
            cache_tokens=self.cache_tokens or run.cache_tokens,
            update_mode=self.update_mode or run.update_mode,
            sglang_python=self.sglang_python or run.sglang_python,
            dtype=self.dtype or run.dtype,
            tensor_parallel=self.tensor_parallel or run.tensor_parallel,
            data_parallel=self.data_parallel or run.data_parallel,
        )


@dataclass(frozen=True, slots=True)
class UpdateTimes:
    """Seconds of the last weight update: in all, and those in which generation stood still."""

    update: float = 0.0
    pause: float = 0.0


class Host:
    """One server and its connection to the gateway."""

    def __init__(self, name: str, update_mode: str, session: Session, engine: EngineOptions) -> None:
        self._name = name
        self._update_mode = update_mode
        self._session = session
        self._engine_options = engine
        self._engine: EngineProcess | None = None
        self._version = -1
        self._times = UpdateTimes()
        self._wanted: WeightAnnouncement | None = None
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """Serve until the gateway says Shutdown; its exit code.

        Raises:
            Missing: the server can't be started. RunFailed: it died or refused weights too often.
        """
        try:
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(self._keep_serving()), group.create_task(self._report_load())]
                exit_code = await self._follow_gateway()
                for task in work:
                    task.cancel()
        except* LamerError as errors:
            raise errors.exceptions[0] from None
        finally:
            if self._engine is not None:
                await self._engine.stop()
        return exit_code

    async def _follow_gateway(self) -> int:
        while True:
            message = await self._session.receive()
            match message:
                case Shutdown():
                    return message.exit_code
                case WeightAnnouncement():
                    self._wanted = message
                    self._changed.set()
                case Welcome():
                    await self._report_if_it_answers()
                case _:
                    log.warning("a %s is no message for an inference host", type(message).__name__)

    async def _keep_serving(self) -> None:
        for attempt in range(MAX_RESTARTS + 1):
            self._engine = await EngineProcess.start(self._engine_options)
            self._version = 0
            code = await self._serve(self._engine)
            self._version = -1
            await self._engine.stop()
            log.error("the inference server ended with code %d (restart %d of %d)", code, attempt + 1, MAX_RESTARTS)
            await self._report(error=f"the server ended with code {code}")
            self._changed.set()
        raise RunFailed(f"the inference server died {MAX_RESTARTS + 1} times")

    async def _serve(self, engine: EngineProcess) -> int:
        """Apply announced versions until the server's process ends; its exit code."""
        ended = asyncio.create_task(engine.process.wait())
        try:
            while not ended.done():
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if self._changed.is_set() and not ended.done():
                    self._changed.clear()
                    await self._apply_wanted(engine)
            return ended.result()
        finally:
            ended.cancel()

    async def _apply_wanted(self, engine: EngineProcess) -> None:
        wanted = self._wanted
        if wanted is None:
            return
        for attempt in range(1, MAX_APPLY_TRIES + 1):
            try:
                if wanted.version != self._version:
                    await self._apply(engine, wanted)
                await self._report()
                return
            except _SERVER_ERRORS as error:
                last = error
            with contextlib.suppress(TimeoutError):  # the server may be dying
                await asyncio.wait_for(engine.process.wait(), APPLY_RETRY_SECONDS)
            is_superseded = self._wanted is not None and self._wanted.version != wanted.version
            if engine.process.returncode is not None or is_superseded:
                return
            log.warning("policy version %d was not applied (try %d): %s", wanted.version, attempt, last)
        raise RunFailed(f"policy version {wanted.version} can't be applied: {last}")

    async def _apply(self, engine: EngineProcess, wanted: WeightAnnouncement) -> None:
        """Verify the announced folder, then pause, load, continue, and verify what the server says it holds."""
        began = time.monotonic()
        for file in wanted.files:
            if await asyncio.to_thread(file_digest, Path(wanted.path) / file.name) != file.digest:
                raise ServerRefused(f"{file.name} in {wanted.path} does not have the announced SHA-256 {file.digest}")
        client, mode = engine.client, engine.update_mode(self._update_mode)
        paused = time.monotonic()
        await client.pause(mode)
        try:
            await client.load_weights(wanted.path, to_weight_version(wanted.version), flush_cache=mode != "in_place")
        finally:
            await client.resume()
        done = time.monotonic()
        held = (await client.model_info()).weight_version
        if held != to_weight_version(wanted.version):
            raise ServerRefused(f"the server says that it holds version {held!r} after loading {wanted.version}")
        self._version = wanted.version
        self._times = UpdateTimes(update=time.monotonic() - began, pause=done - paused)

    async def _report(self, error: str = "") -> None:
        """Tell the gateway how the server is.

        Raises:
            ServerRefused, OSError, ClientError: the server does not say.
        """
        engine = self._engine
        is_ready = self._version >= 0 and engine is not None and not error
        figures = await engine.client.loads() if is_ready and engine is not None else None
        server = ServerInfo(
            name=self._name,
            url=engine.url if engine is not None else "",
            api_key=engine.api_key if engine is not None else "",
            policy_version=max(self._version, 0),
            max_running=self._engine_options.max_running,
            running=figures.num_running_reqs if figures is not None else 0,
            waiting=figures.num_waiting_reqs if figures is not None else 0,
        )
        status = HostStatus(
            server=server,
            is_ready=is_ready,
            pause_seconds=self._times.pause,
            update_seconds=self._times.update,
            error=error,
        )
        await self._session.send(status)

    async def _report_load(self) -> None:
        """Send the server's load once per heartbeat, while there is a server that holds a version."""
        while True:
            await asyncio.sleep(self._session.welcome.heartbeat_seconds)
            if self._version >= 0 and self._wanted is not None and self._version == self._wanted.version:
                await self._report_if_it_answers()

    async def _report_if_it_answers(self) -> None:
        try:
            await self._report()
        except _SERVER_ERRORS as error:  # one that died is reported by `_keep_serving`
            log.warning("no load figures from the inference server: %s", error)


async def run_host(options: HostOptions) -> int:
    """Connect to the gateway, serve its policy, and follow it until the run is over.

    Returns:
        the exit code that the gateway's Shutdown named, or 130 after SIGINT or SIGTERM.

    Raises:
        LamerError: the gateway can't be reached or refused us, or the server can't be started or kept alive.
    """
    hello = Hello(protocol_min=PROTOCOL_VERSION, protocol_max=PROTOCOL_VERSION, role=Role.HOST, name=options.name)
    session = await Session.open(options.url, options.keys, hello, CONNECT_SECONDS)
    try:
        welcome = session.welcome
        folder = Path(options.model_path or welcome.model_path)
        _check_model(folder)
        inference = options.resolved(from_json(welcome.config).inference)
        engine = EngineOptions(
            engine=inference.engine,
            model_path=folder,
            host=options.host,
            port=options.port,
            max_running=inference.max_running,
            cache_tokens=inference.cache_tokens,
            python=inference.sglang_python,
            dtype=inference.dtype,
            tensor_parallel=inference.tensor_parallel,
            data_parallel=inference.data_parallel,
        )
        log.info("joined run %s as %s: %d sequences at once", welcome.run, options.name, inference.max_running)
        serving = asyncio.create_task(Host(options.name, inference.update_mode, session, engine).run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
        try:
            return await serving
        except asyncio.CancelledError:
            await session.send(Goodbye(reason="interrupted"))
            return 130
    finally:
        await session.close("the inference host ends")


def _check_model(folder: Path) -> None:
    """Refuse a folder that can't be served here.

    Raises:
        Missing: it is not there, or lacks a file.
    """
    lacking = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not folder.is_dir():
        raise Missing(f"no model at {folder} on this host: copy the folder here and name it with --model")
    if lacking:
        raise Missing(f"the model folder {folder} lacks {' and '.join(lacking)}: name a whole one with --model")
