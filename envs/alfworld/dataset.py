"""A whole dataset of ALFWorld: games compiled ahead of play on all workers, and those without a solution named."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.envs.alfworld.games import SPLITS, UNSOLVABLE_FILE, GameFiles, forget_games, game_names
from lamer.envs.alfworld.houses import house_pool, open_session
from lamer.envs.alfworld.messages import Solve, Way
from lamer.envs.base import EnvironmentFault
from lamer.envs.workers.pool import Session, worker_count

_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class CompiledDataset:
    """How many games were compiled, and the names of those that the planner does not solve."""

    games: int
    unsolvable: tuple[str, ...]


def compile_dataset(dataset: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> CompiledDataset:
    """Compile and solve every game of a dataset's folder where that was not done yet, and write its `unsolvable.txt`.

    About two seconds of a core a game. progress: called with games done and in all.

    Raises:
        OSError: the folder can't be written.
    """
    names = [name for split in SPLITS for name in game_names(dataset, split)]
    unsolvable: list[str] = []
    for done, (files, way) in enumerate(solve_games(GameFiles(dataset, name) for name in names), start=1):
        if not way:
            unsolvable.append(files.name)
        progress(done, len(names))
    temporary = dataset / f".{UNSOLVABLE_FILE}"
    temporary.write_text("".join(f"{name}\n" for name in unsolvable), encoding="utf-8")
    os.replace(temporary, dataset / UNSOLVABLE_FILE)
    forget_games()
    return CompiledDataset(len(names), tuple(unsolvable))


def solve_games(games: Iterable[GameFiles]) -> Iterator[tuple[GameFiles, tuple[str, ...]]]:
    """Compile and solve games, in order, each with the planner's solution, () where there is none or no game."""
    asked: deque[tuple[GameFiles, Session, Future[bytes]]] = deque()
    request = msgspec.msgpack.encode(Solve())
    limit = _IN_FLIGHT * worker_count()
    for files in games:
        if len(asked) >= limit:
            yield _await(*asked.popleft())
        session = open_session(house_pool(), files)
        asked.append((files, session, session.request(request)))
    while asked:
        yield _await(*asked.popleft())


def _await(files: GameFiles, session: Session, future: Future[bytes]) -> tuple[GameFiles, tuple[str, ...]]:
    try:
        return files, msgspec.msgpack.decode(future.result(), type=Way).commands
    except EnvironmentFault:
        return files, ()
    finally:
        session.close()
