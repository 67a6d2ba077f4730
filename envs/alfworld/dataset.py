"""A whole dataset of ALFWorld: games compiled and solved ahead of play on all workers, and what came of each.

A game has a solution, or has none, or the planner gave no answer: it took too long, its process died, or the game's
files can't be read. Only that there is none is remembered, in `unsolvable.txt`; games without an answer are named, stay
in play, and are asked again the next time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.envs.alfworld.games import SPLITS, UNSOLVABLE_FILE, GameFiles, forget_games, game_names, require_engine
from lamer.envs.alfworld.houses import open_session, planner_pool
from lamer.envs.alfworld.messages import Solve, Way
from lamer.envs.base import EnvironmentFault
from lamer.envs.workers.pool import Session, WorkerPool, worker_count
from lamer.envs.workers.worker import Crashed, NeverAsked

_IN_FLIGHT = 4
_MOST_CRASHES = 3
"""After so many a game has no answer: one may have been another game's doing, in the same process before."""
_MOST_VAIN = 50
"""How often a game is asked anew whose worker ended before it came to it."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A game of which the planner did not say whether it can be solved, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CompiledDataset:
    """How many games there are, the names of those that have no solution, and those without an answer."""

    games: int
    unsolvable: tuple[str, ...]
    unanswered: tuple[Unanswered, ...]


def compile_dataset(
    dataset: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    pool: Callable[[], WorkerPool] = planner_pool,
) -> CompiledDataset:
    """Compile and solve every game of a dataset's folder where that was not done yet, and write its `unsolvable.txt`.

    About two seconds of a core a game. progress: called with games done and in all.

    Raises:
        Missing: the engine is not installed. OSError: the folder can't be written.
    """
    require_engine()
    names = [name for split in SPLITS for name in game_names(dataset, split)]
    unsolvable: list[str] = []
    unanswered: list[Unanswered] = []
    for done, (files, answer) in enumerate(solve_games((GameFiles(dataset, name) for name in names), pool), start=1):
        if isinstance(answer, EnvironmentFault):
            unanswered.append(Unanswered(files.name, str(answer)))
        elif answer.commands is None:
            unsolvable.append(files.name)
        progress(done, len(names))
    temporary = dataset / f".{UNSOLVABLE_FILE}"
    temporary.write_text("".join(f"{name}\n" for name in unsolvable), encoding="utf-8")
    os.replace(temporary, dataset / UNSOLVABLE_FILE)
    forget_games()
    return CompiledDataset(len(names), tuple(unsolvable), tuple(unanswered))


def solve_games(
    games: Iterable[GameFiles], pool: Callable[[], WorkerPool] = planner_pool
) -> Iterator[tuple[GameFiles, Way | EnvironmentFault]]:
    """Compile and solve games, in order, each with the planner's answer, or with why there is none."""
    asked: deque[_Asked] = deque()
    limit = _IN_FLIGHT * worker_count()
    for files in games:
        if len(asked) >= limit:
            yield _settle(asked.popleft(), pool)
        asked.append(_ask(files, pool))
    while asked:
        yield _settle(asked.popleft(), pool)


@dataclass(frozen=True, slots=True)
class _Asked:
    files: GameFiles
    session: Session
    answer: Future[bytes]


def _ask(files: GameFiles, pool: Callable[[], WorkerPool]) -> _Asked:
    session = open_session(pool(), files)
    return _Asked(files, session, session.request(msgspec.msgpack.encode(Solve())))


def _settle(asked: _Asked, pool: Callable[[], WorkerPool]) -> tuple[GameFiles, Way | EnvironmentFault]:
    """Wait for an answer. A game whose worker crashes is asked again, and so is one that its worker never came to."""
    crashes = vain = 0
    while True:
        try:
            return asked.files, msgspec.msgpack.decode(asked.answer.result(), type=Way)
        except Crashed as fault:
            crashes += 1
            if crashes == _MOST_CRASHES:
                return asked.files, fault
        except NeverAsked as fault:
            vain += 1
            if vain == _MOST_VAIN:
                return asked.files, fault
        except EnvironmentFault as fault:
            return asked.files, fault
        finally:
            asked.session.close()
        asked = _ask(asked.files, pool)
