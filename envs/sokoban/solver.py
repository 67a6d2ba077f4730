"""Shortest solutions by breadth-first search over positions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from envs.sokoban.room import Direction, Position, Room, is_solved, move


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found: `path` a shortest solution, None if there is none among the positions it looked at.

    is_exhaustive: it looked at every position that can be reached, so that no path means that there is none.
    """

    path: tuple[Direction, ...] | None
    is_exhaustive: bool


MAX_POSITIONS = 200_000


def solve(room: Room, start: Position, max_positions: int = MAX_POSITIONS) -> Search:
    """A solution with the fewest moves, among the first `max_positions` positions nearest to `start`."""
    if is_solved(room, start):
        return Search((), is_exhaustive=True)
    came_from: dict[Position, tuple[Position, Direction]] = {}
    pending = deque([start])
    while pending:
        position = pending.popleft()
        for direction in Direction:
            after = move(room, position, direction)
            if after in came_from or after == start:
                continue
            came_from[after] = (position, direction)
            if is_solved(room, after):
                return Search(_path_to(after, came_from), is_exhaustive=True)
            pending.append(after)
        if len(came_from) >= max_positions:
            return Search(None, is_exhaustive=False)
    return Search(None, is_exhaustive=True)


def is_deadlocked(room: Room, position: Position, max_positions: int = MAX_POSITIONS) -> bool:
    """Whether it is certain, after a look at `max_positions` positions, that no solution exists any more."""
    search = solve(room, position, max_positions)
    return search.path is None and search.is_exhaustive


def _path_to(end: Position, came_from: dict[Position, tuple[Position, Direction]]) -> tuple[Direction, ...]:
    path: list[Direction] = []
    while end in came_from:
        end, direction = came_from[end]
        path.append(direction)
    return tuple(reversed(path))
