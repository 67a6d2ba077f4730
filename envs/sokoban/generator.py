"""The room of a seed, by reverse play.

1. A walker carves the floor out of a block of wall: int(1.7 * (rows + cols)) steps, turning with chance 0.35, each
   opening the cell it stands on and, with chance 0.7, a cell beside it.
2. Targets are drawn from the floor, and the boxes are put on them: the solved room.
3. Reverse play, breadth first: from every place where the player may stand in the solved room, the player walks and
   pulls boxes. The depth at which a position is met first is the length of its shortest solution, and the way back is
   one.
4. The start is drawn among the positions with no box on a target whose shortest solution has an allowed length.

A room without such a position is dropped and another carved. Every room is therefore solvable by construction.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from lamer.envs.base import EnvironmentFault
from lamer.envs.seeding import task_rng
from lamer.envs.sokoban.room import Direction, Position, Room

_TURN_CHANCE = 0.35
_WIDEN_CHANCE = 0.7
_WALK_FACTOR = 1.7
_MAX_POSITIONS = 60_000
_LAST_ROOM = 10


@dataclass(frozen=True, slots=True)
class Layout:
    """A room before play, with a shortest solution where one is known, () for rooms from level files."""

    room: Room
    start: Position
    solution: tuple[Direction, ...]


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """How large a room is, and how long its shortest solution may be."""

    rows: int
    cols: int
    boxes: int
    min_moves: int
    max_moves: int
    max_rooms: int


@functools.lru_cache(maxsize=1024)
def draw_layout(limits: RoomLimits, seed: int) -> Layout:
    """The room of a seed. After `max_rooms` rooms without a start of an allowed length, the longest found is taken.

    Raises:
        EnvironmentFault: not one of 10 * max_rooms rooms has any start: they are too small for their boxes.
    """
    rng = task_rng("sokoban", limits.rows, limits.cols, limits.boxes, limits.min_moves, limits.max_moves, seed)
    fallback: Layout | None = None
    for number in range(_LAST_ROOM * limits.max_rooms):
        if fallback is not None and number >= limits.max_rooms:
            return fallback
        layout = _draw_room(rng, limits)
        if layout is None:
            continue
        if len(layout.solution) >= limits.min_moves:
            return layout
        if fallback is None or len(layout.solution) > len(fallback.solution):
            fallback = layout
    raise EnvironmentFault(f"sokoban seed {seed}: no room of {limits} has a start, use more cells or fewer boxes")


def _draw_room(rng: random.Random, limits: RoomLimits) -> Layout | None:
    floor = _carve(rng, limits.rows, limits.cols)
    if len(floor) <= 2 * limits.boxes:
        return None
    targets = frozenset(rng.sample(sorted(floor), limits.boxes))
    room = Room(limits.rows, limits.cols, floor, targets)
    reverse = ReversePlay(room, limits.max_moves)
    starts = reverse.starts()
    allowed = [position for position in starts if reverse.depth[position] >= limits.min_moves]
    if not starts:
        return None
    start = rng.choice(allowed) if allowed else max(starts, key=reverse.depth.__getitem__)
    return Layout(room, start, reverse.solution(start))


def _carve(rng: random.Random, rows: int, cols: int) -> frozenset[int]:
    def clip(row: int, column: int) -> tuple[int, int]:
        return min(max(row, 1), rows - 2), min(max(column, 1), cols - 2)

    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    here = rng.randrange(1, rows - 1), rng.randrange(1, cols - 1)
    down, right = rng.choice(steps)
    floor = {here}
    for _ in range(int(_WALK_FACTOR * (rows + cols))):
        if rng.random() < _TURN_CHANCE:
            down, right = rng.choice(steps)
        here = clip(here[0] + down, here[1] + right)
        floor.add(here)
        if rng.random() < _WIDEN_CHANCE:
            side = rng.choice((-1, 1))
            floor.add(clip(here[0] + side * right, here[1] + side * down))
    return frozenset(row * cols + column for row, column in floor)


class ReversePlay:
    """Every position from which the room is solved in at most `max_depth` moves, and the next move of each.

    depth: moves of the shortest solution. At most 60,000 positions are kept, the nearest to the solved room first.
    """

    def __init__(self, room: Room, max_depth: int) -> None:
        self._room = room
        solved = [Position(cell, room.targets) for cell in sorted(room.floor - room.targets)]
        self.depth: dict[Position, int] = dict.fromkeys(solved, 0)
        self._next: dict[Position, tuple[Position, Direction]] = {}
        layer = solved
        for depth in range(1, max_depth + 1):
            layer = self._expand(layer, depth)
            if not layer or len(self.depth) >= _MAX_POSITIONS:
                break

    def starts(self) -> list[Position]:
        """The positions with no box on a target, nearest to the solved room first."""
        return [position for position in self.depth if not position.boxes & self._room.targets]

    def solution(self, start: Position) -> tuple[Direction, ...]:
        """A shortest solution from a position that reverse play has met."""
        path: list[Direction] = []
        while start in self._next:
            start, direction = self._next[start]
            path.append(direction)
        return tuple(path)

    def _expand(self, layer: list[Position], depth: int) -> list[Position]:
        found: list[Position] = []
        for position in layer:
            for direction in Direction:
                for before in self._before(position, direction):
                    if before not in self.depth:
                        self.depth[before] = depth
                        self._next[before] = (position, direction)
                        found.append(before)
        return found

    def _before(self, position: Position, direction: Direction) -> list[Position]:
        """The positions from which a move in `direction` leads to `position`: the player walked, or pushed a box."""
        offset = self._room.offset(direction)
        behind, ahead = position.player - offset, position.player + offset
        if behind not in self._room.floor or behind in position.boxes:
            return []
        walked = Position(behind, position.boxes)
        if ahead not in position.boxes:
            return [walked]
        return [walked, Position(behind, position.boxes - {ahead} | {position.player})]
