"""A game in a worker process as its environment sees it: scenes, at once or awaited.

House         one game; every method comes twice, the second for event loops
house_pool    the workers that play
planner_pool  the workers that compile and solve games ahead of play, and may think for long
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

import msgspec

from lamer.envs.alfworld.games import GameFiles
from lamer.envs.alfworld.messages import AnyRequest, HouseSpec, Plan, Reset, Scene, Step, Way
from lamer.envs.base import EnvironmentFault
from lamer.envs.workers.pool import Session, WorkerPool, shared_pool
from lamer.envs.workers.worker import NeverAsked, WorkerOptions

WORKER = WorkerOptions(
    target="lamer.envs.alfworld.hosting:open_house",
    seconds=300.0,
    # The text of a game must not depend on Python's hash seed; and alfworld makes the folder that ALFWORLD_DATA names.
    environ=(("PYTHONHASHSEED", "0"), ("ALFWORLD_DATA", tempfile.gettempdir())),
)

PLANNER = replace(WORKER, seconds=3600.0)
"""The planner mostly takes less than a second; 285 seconds of CPU were seen, which is much longer on a busy machine."""
_TRIES = 5
"""How often a game is started over whose worker is killed for another game's sake."""

AnswerT = TypeVar("AnswerT")


def house_pool() -> WorkerPool:
    """The workers of this process."""
    return shared_pool(WORKER)


def planner_pool() -> WorkerPool:
    """The workers of this process that solve games."""
    return shared_pool(PLANNER)


class House:
    """One game. It is opened by its first reset, and moves to another worker at a reset where that is due."""

    def __init__(self, files: GameFiles, pool: Callable[[], WorkerPool] = house_pool) -> None:
        self._files = files
        self._pool = pool
        self._session: Session | None = None

    def reset(self) -> Scene:
        """Start over."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(NeverAsked):
                return _decode(self._restart().result(), Scene)
        return _decode(self._restart().result(), Scene)

    async def reset_async(self) -> Scene:
        """Start over."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(NeverAsked):
                return _decode(await asyncio.wrap_future(self._restart()), Scene)
        return _decode(await asyncio.wrap_future(self._restart()), Scene)

    def step(self, command: str) -> Scene:
        """Give a command."""
        return _decode(self._ask(Step(command)).result(), Scene)

    async def step_async(self, command: str) -> Scene:
        """Give a command."""
        return _decode(await asyncio.wrap_future(self._ask(Step(command))), Scene)

    def plan(self) -> tuple[str, ...] | None:
        """The planner's way from here to the goal, None where there is none."""
        return _decode(self._ask(Plan()).result(), Way).commands

    def close(self) -> None:
        """Close the game; returns at once."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _restart(self) -> Future[bytes]:
        if self._session is not None and (self._session.is_retired or not self._session.worker.is_alive):
            self.close()
        if self._session is None:
            self._session = open_session(self._pool(), self._files)
        return self._ask(Reset())

    def _ask(self, request: AnyRequest) -> Future[bytes]:
        if self._session is None:
            raise EnvironmentFault(f"alfworld: {self._files.name} was not reset before its first step")
        return self._session.request(msgspec.msgpack.encode(request))


def open_session(pool: WorkerPool, files: GameFiles) -> Session:
    """A session for a game."""
    spec = HouseSpec(str(files.dataset.resolve()), files.name)
    return pool.open(files.name, msgspec.msgpack.encode(spec))


def _decode(answer: bytes, kind: type[AnswerT]) -> AnswerT:
    return msgspec.msgpack.decode(answer, type=kind)
