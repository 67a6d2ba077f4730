"""Shortest solutions by breadth-first search over positions."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from lamer.envs.sokoban.room import Direction, Position, Room, is_solved, move


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found: `path` a shortest solution, None if there is none among the positions it looked at.

    is_exhaustive: it looked at every position that can be reached within its moves, so that no path means that there
    is none.
    """

    path: tuple[Direction, ...] | None
    is_exhaustive: bool


MAX_POSITIONS = 200_000


def solve(room: Room, start: Position, max_positions: int = MAX_POSITIONS, max_moves: int | None = None) -> Search:
    """A solution with the fewest moves, among the first `max_positions` positions nearest to `start`.

    max_moves: only solutions of so many moves; positions from which the boxes can't come home in time are left out.
    """
    if is_solved(room, start):
        return Search((), is_exhaustive=True)
    came_from: dict[Position, tuple[Position, Direction]] = {}
    pending = deque([(start, 0)])
    while pending:
        position, moves = pending.popleft()
        for direction in Direction:
            after = move(room, position, direction)
            if after in came_from or after == start:
                continue
            if max_moves is not None and moves + 1 + pushes_left(room, after) > max_moves:
                continue
            came_from[after] = (position, direction)
            if is_solved(room, after):
                return Search(_path_to(after, came_from), is_exhaustive=True)
            pending.append((after, moves + 1))
        if len(came_from) >= max_positions:
            return Search(None, is_exhaustive=False)
    return Search(None, is_exhaustive=True)


def is_deadlocked(room: Room, position: Position, max_positions: int = MAX_POSITIONS) -> bool:
    """Whether it is certain, after a look at `max_positions` positions, that no solution exists any more."""
    search = solve(room, position, max_positions)
    return search.path is None and search.is_exhaustive


def pushes_left(room: Room, position: Position) -> float:
    """A lower bound of the pushes still needed: each box to its nearest target, as if it were alone; inf for never."""
    distances = _pushes_to_target(room)
    return sum(distances.get(box, math.inf) for box in position.boxes)


@functools.lru_cache(maxsize=64)
def _pushes_to_target(room: Room) -> Mapping[int, int]:
    """The fewest pushes that bring a lone box from a cell to a target, for the cells where that is possible."""
    found = dict.fromkeys(room.targets, 0)
    pending = deque(room.targets)
    while pending:
        cell = pending.popleft()
        for direction in Direction:
            offset = room.offset(direction)
            pushed_from = cell - offset
            if pushed_from in room.floor and pushed_from - offset in room.floor and pushed_from not in found:
                found[pushed_from] = found[cell] + 1
                pending.append(pushed_from)
    return found


def _path_to(end: Position, came_from: dict[Position, tuple[Position, Direction]]) -> tuple[Direction, ...]:
    path: list[Direction] = []
    while end in came_from:
        end, direction = came_from[end]
        path.append(direction)
    return tuple(reversed(path))
