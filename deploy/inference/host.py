"""The host agent: one inference server, kept running and holding the run's current policy version.

The agent is the only client of the server's admin routes. It connects to the gateway as a HOST, fetches announced
weights in the background (`feed`), opens the server on the first of them (`launch` or `attach`), applies the others
(`updates`), and reports. The gateway hands the server to actors only while the agent's last HostStatus says `is_ready`.
A server that ends, hangs or refuses weights for good is opened again, on the newest weights.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

from lamer.common.errors import LamerError, RunFailed
from lamer.common.liveness.guard import surviving
from lamer.common.liveness.restarts import Restarts
from lamer.common.messages import (
    AnyMessage,
    GroupOffer,
    GroupOrder,
    GroupUpdate,
    HostStatus,
    ModelFiles,
    ServerInfo,
    Shutdown,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
    Welcome,
)
from lamer.common.session import Session
from lamer.common.versions import to_weight_version
from lamer.deploy.inference.applying import SERVER_ERRORS, HalfUpdated, UpdateTimes, apply_folder, apply_live, verify
from lamer.deploy.inference.engines.base import Engine, EngineSource
from lamer.deploy.inference.engines.client import LoadFigures
from lamer.deploy.inference.fetching.base import Fetched, FolderDelivery, LiveDelivery, ServerStuck, Withdrawn
from lamer.deploy.inference.fetching.feed import OlderVersion, Ready, WeightFeed
from lamer.deploy.inference.pinning import pinned

log = logging.getLogger("lamer.host")

AnswerT = TypeVar("AnswerT")

MAX_RESTARTS = 5
MAX_APPLY_TRIES = 3
APPLY_RETRY_SECONDS = 1.0
LEAST_SILENT_SECONDS = 10.0
"""A server that does not say its load for so long, or the run's dead_after_seconds if that is more, hangs."""


class Host:
    """One server and its connection to the gateway."""

    def __init__(
        self,
        name: str,
        update_mode: str,
        session: Session,
        source: EngineSource,
        folders: FolderDelivery,
        live: LiveDelivery | None = None,
        own_copy: Path | None = None,
    ) -> None:
        """own_copy: a model folder of this machine that may hold the announced weights already."""
        self._name = name
        self._update_mode = update_mode
        self._session = session
        self._source = source
        self._folders = folders
        self._live = live
        self._feed = WeightFeed(folders, live, own_copy, self._complain)
        self._engine: Engine | None = None
        self._attached: Engine | None = None
        self._held: WeightAnnouncement | None = None
        self._is_updating = False
        self._failures = 0
        self._times = UpdateTimes()
        self._fetched: Fetched | None = None
        self._complaints: asyncio.Queue[str] = asyncio.Queue()
        self._stuck: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> int:
        """Serve until the gateway says Shutdown; its exit code.

        Raises:
            Missing: there can be no server. RunFailed: it ended or refused weights too often.
        """
        try:
            async with asyncio.TaskGroup() as group:
                work: list[Coroutine[None, None, None]] = [
                    self._keep_serving(),
                    self._feed.run(),
                    self._pass_complaints(),
                ]
                tasks = [group.create_task(each) for each in work]
                exit_code = await self._follow_gateway()
                for task in tasks:
                    task.cancel()
        except* LamerError as errors:
            raise _first(errors) from None
        finally:
            if self._live is not None:
                await self._live.close()
            if self._engine is not None:
                await self._engine.stop()
        return exit_code

    # -- what the gateway says --------------------------------------------------------------------------------------
    async def _follow_gateway(self) -> int:
        while True:
            message = await self._session.receive()
            if isinstance(message, Shutdown):
                return message.exit_code
            with surviving(log, message, "the learner"):
                await self._handle(message)

    async def _handle(self, message: AnyMessage) -> None:
        match message:
            case WeightAnnouncement():
                await self._announced(message)
            case WeightManifest() | WeightChunk() | ModelFiles():
                self._folders.take(message)
            case GroupOffer() | GroupUpdate() | GroupOrder() if self._live is not None:
                self._live.take(message)
            case Welcome():
                self._folders.take(message)
                if self._live is not None:
                    self._live.take(message)
                await self._report_if_it_answers()
            case _:
                log.warning("a %s is no message for an inference host", type(message).__name__)

    async def _announced(self, weights: WeightAnnouncement) -> None:
        try:
            is_new = self._feed.announce(weights, self._session.welcome.epoch)
        except OlderVersion as error:
            self._complain(str(error))
            return
        if not is_new:
            await self._report_if_it_answers()

    # -- the server -------------------------------------------------------------------------------------------------
    async def _keep_serving(self) -> None:
        restarts, starts = Restarts(MAX_RESTARTS), 0
        while True:
            ready = await self._feed.next()
            if ready.fetched is None:  # a server can only start on a folder
                self._feed.again(is_full=False)
                continue
            async with pinned(ready.fetched.folder) as folder:
                engine = await self._source.open(folder, ready.weights.version)
            self._engine = engine
            starts += 1
            restarts.started(time.monotonic())
            why = await self._serve(engine, ready)
            wait = restarts.ended(time.monotonic()) if self._source.is_owned else 0.0
            self._held = None
            if self._live is not None:
                self._live.lose()
            await engine.stop()
            await self._report(error=f"the inference server: {why}")
            if wait is None:
                raise RunFailed(f"the inference server was started {starts} times; the last time, {why}")
            log.error("the inference server: %s (restart %d of %d in %g s)", why, restarts.used, restarts.most, wait)
            await asyncio.sleep(wait)
            self._feed.again(is_full=False)

    async def _serve(self, engine: Engine, first: Ready) -> str:
        """Keep a server at the newest version; why it has to be opened again."""
        ended, watched = asyncio.create_task(engine.ended()), asyncio.create_task(self._watch(engine))
        stuck = asyncio.create_task(self._stuck.get())
        endings = (ended, watched, stuck)
        try:
            why = await self._begin(engine, first, ended)
            while not why:
                upcoming = asyncio.create_task(self._feed.next())
                await asyncio.wait((*endings, upcoming), return_when=asyncio.FIRST_COMPLETED)
                upcoming.cancel()
                for ending in endings:
                    if ending.done():
                        return ending.result()
                why = await self._take(engine, upcoming.result(), ended)
            return ended.result() if ended.done() else why
        finally:
            for task in endings:
                task.cancel()
            await asyncio.gather(*endings, return_exceptions=True)

    async def _begin(self, engine: Engine, first: Ready, ended: asyncio.Task[str]) -> str:
        """The server answers: see that it holds what it was started on, or load it."""
        if not engine.is_loaded:
            return await self._take(engine, first, ended)
        try:
            await verify(engine.client, first.weights)
            self._hold(engine, first)
            await self._report()
        except SERVER_ERRORS as error:
            return str(error)
        return ""

    def _hold(self, engine: Engine, ready: Ready) -> None:
        self._held, self._fetched, self._failures = ready.weights, ready.fetched, 0
        if self._live is not None and self._attached is not engine:
            self._live.attach(engine.client, self._stuck.put_nowait)
            self._attached = engine

    async def _take(self, engine: Engine, ready: Ready, ended: asyncio.Task[str]) -> str:
        """Apply weights; why the server has to be opened again, "" if it need not be. What failed is fetched again,
        whole, after a while.
        """
        held = self._held
        if held is not None and (held.version, held.identity) == (ready.weights.version, ready.weights.identity):
            return ""
        self._is_updating = True
        try:
            self._times = await self._apply(engine, ready)
            self._hold(engine, ready)
            await self._report()
            return ""
        except Withdrawn as error:
            log.info("policy version %d is fetched as a folder: %s", ready.weights.version, error)
            self._feed.again(is_full=False)
            return ""
        except (HalfUpdated, ServerStuck) as error:
            return str(error)
        except SERVER_ERRORS as error:
            return await self._put_off(ready, error, ended)
        finally:
            self._is_updating = False

    async def _put_off(self, ready: Ready, error: Exception, ended: asyncio.Task[str]) -> str:
        await asyncio.wait({ended}, timeout=APPLY_RETRY_SECONDS)
        if ended.done():
            return ended.result()
        self._failures += 1
        why = f"policy version {ready.weights.version} was not applied (try {self._failures}): {error}"
        if self._failures == MAX_APPLY_TRIES and not self._source.is_owned:
            raise RunFailed(why)
        if self._failures == MAX_APPLY_TRIES:
            self._failures = 0
            return why
        self._complain(why)
        self._feed.again(is_full=True)
        return ""

    async def _apply(self, engine: Engine, ready: Ready) -> UpdateTimes:
        mode, weights = engine.update_mode(self._update_mode), ready.weights
        if ready.fetched is not None:
            return await apply_folder(engine, mode, weights, ready.fetched.folder)
        assert self._live is not None

        async def fetch() -> Path:
            return (await self._feed.folder(weights)).folder

        return await apply_live(engine, mode, weights, self._live, fetch)

    # -- reports ----------------------------------------------------------------------------------------------------
    async def _watch(self, engine: Engine) -> str:
        """Report the load with every heartbeat; why the server can't be relied on any more."""
        while True:
            await asyncio.sleep(self._session.welcome.heartbeat_seconds)
            if self._held is None or self._is_updating:
                continue
            silence = max(LEAST_SILENT_SECONDS, self._session.welcome.dead_after_seconds)
            expected = self._held
            try:
                answer = await self._within(silence, self._look(engine))
            except SERVER_ERRORS as error:
                log.warning("no load figures from the inference server: %s", str(error) or type(error).__name__)
                continue
            if answer is None:
                if self._held is expected and not self._is_updating:
                    return f"it did not say its load for {silence:g} s"
                continue
            status, label = answer
            await self._session.send(status)  # which may wait for the learner: no fault of the server's
            if label != to_weight_version(expected.version) and self._held is expected and not self._is_updating:
                return (
                    f"it says that it holds version {label!r} instead of {expected.version}: somebody else changed it"
                )

    async def _look(self, engine: Engine) -> tuple[HostStatus, str]:
        """How the server is, and the label of what it holds."""
        return await self._status(), (await engine.client.model_info()).weight_version

    async def _within(self, seconds: float, asking: Coroutine[None, None, AnswerT]) -> AnswerT | None:
        """An answer, None if it does not come in time. Counts silent heartbeat periods rather than time, so that an
        agent that was itself suspended or blocked hears the answer first.
        """
        period, silent = self._session.welcome.heartbeat_seconds, 0.0
        task = asyncio.create_task(asking)
        try:
            while silent < seconds and not task.done():
                await asyncio.wait({task}, timeout=period)
                silent += period
            return task.result() if task.done() else None
        finally:
            task.cancel()

    async def _report(self, error: str = "") -> None:
        """Tell the gateway how the server is. An error does not stop a server that holds a version from being used.

        Raises:
            ServerRefused, OSError, ClientError: the server does not say.
        """
        await self._session.send(await self._status(error))

    async def _status(self, error: str = "") -> HostStatus:
        engine = self._engine
        figures = await engine.client.loads() if engine is not None and self._held is not None else LoadFigures()
        held = self._held if engine is self._engine else None
        server = ServerInfo(
            name=self._name,
            url=engine.url if engine is not None else "",
            api_key=engine.api_key if engine is not None else "",
            policy_version=held.version if held is not None else 0,
            max_running=engine.max_running if engine is not None else 0,
            running=figures.num_running_reqs,
            waiting=figures.num_waiting_reqs,
        )
        return HostStatus(
            server=server,
            is_ready=held is not None,
            pause_seconds=self._times.pause,
            update_seconds=self._times.update,
            download_seconds=self._fetched.seconds if self._fetched is not None else 0.0,
            download_bytes=self._fetched.size if self._fetched is not None else 0,
            error=error,
        )

    async def _report_if_it_answers(self, error: str = "") -> None:
        try:
            await self._report(error)
        except SERVER_ERRORS as failure:  # one that died is reported by `_keep_serving`
            log.warning("no load figures from the inference server: %s", failure)

    def _complain(self, error: str) -> None:
        log.warning("%s", error)
        self._complaints.put_nowait(error)

    async def _pass_complaints(self) -> None:
        while True:
            await self._report_if_it_answers(await self._complaints.get())


def _first(errors: BaseExceptionGroup[LamerError]) -> LamerError:
    for error in errors.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an empty group")
