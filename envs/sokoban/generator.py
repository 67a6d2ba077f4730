"""The room of a seed, by reverse play, after the rules of gym-sokoban as the paper's code uses them.

1. A walker carves the floor out of a block of wall: int(1.7 * (rows + cols)) steps, turning with chance 0.35, each
   opening the cells of one of five shapes around it (`_SHAPES`).
2. Player and targets are drawn from the floor, and the boxes are put on the targets: the solved room.
3. Reverse play, breadth first: from every place where the player may stand in the solved room, the player walks and
   pulls boxes. The depth at which a position is met first is the length of its shortest solution, and the way back is
   one.
4. Reverse play, depth first, from where the player was drawn: of the positions with no box on a target, the start is
   the one with the most box changes times the distance of boxes from their targets.
5. The player takes up to three steps more, so as not to stand beside a box each time.

A room without such a position, or with a solution that is too short or too long, is dropped and another carved. Every
room is therefore solvable by construction. Step 4 is for rooms of at most 10,000 positions (the paper's have 1,680 at
most); in larger ones, and after `max_rooms` rooms, the start is drawn among the positions of an allowed length.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

from lamer.envs.base import EnvironmentFault
from lamer.envs.seeding import task_rng
from lamer.envs.sokoban.room import Direction, Position, Room

_TURN_CHANCE = 0.35
_WALK_FACTOR = 1.7
_SHAPES = (  # rows and columns from the walker
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, -1), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
)
_MAX_POSITIONS = 60_000
_FEW_POSITIONS = 10_000
_DEEPEST = 300
_MOST_STEPS = 3
_STEP_CHANCE = 0.5
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
        layout = _draw_room(rng, limits, is_scored=number < limits.max_rooms)
        if layout is None:
            continue
        if len(layout.solution) >= limits.min_moves:
            return layout
        if fallback is None or len(layout.solution) > len(fallback.solution):
            fallback = layout
    raise EnvironmentFault(f"sokoban seed {seed}: no room of {limits} has a start, use more cells or fewer boxes")


def _draw_room(rng: random.Random, limits: RoomLimits, *, is_scored: bool) -> Layout | None:
    floor = _carve(rng, limits.rows, limits.cols)
    if len(floor) <= 2 * limits.boxes:
        return None
    player, *targets = rng.sample(sorted(floor), 1 + limits.boxes)
    room = Room(limits.rows, limits.cols, floor, frozenset(targets))
    reverse = ReversePlay(room, limits.max_moves)
    if is_scored and _most_positions(room) <= _FEW_POSITIONS:
        start = _pulled_apart(room, player, tuple(targets))
    else:
        start = _any_start(rng, reverse, limits.min_moves)
    if start is None or start not in reverse.depth:
        return None
    start = _walked(rng, reverse, start)
    return Layout(room, start, reverse.solution(start))


def _carve(rng: random.Random, rows: int, cols: int) -> frozenset[int]:
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    row, column = rng.randrange(1, rows), rng.randrange(1, cols)
    down, right = rng.choice(steps)
    opened: set[tuple[int, int]] = set()
    for _ in range(int(_WALK_FACTOR * (rows + cols))):
        if rng.random() < _TURN_CHANCE:
            down, right = rng.choice(steps)
        row = min(max(row + down, 1), rows - 2)
        column = min(max(column + right, 1), cols - 2)
        opened.update((row + below, column + beside) for below, beside in rng.choice(_SHAPES))
    inside = ((row, column) for row, column in opened if 0 < row < rows - 1 and 0 < column < cols - 1)
    return frozenset(row * cols + column for row, column in inside)


def _most_positions(room: Room) -> int:
    """How many positions a room can have."""
    return math.comb(len(room.floor), len(room.targets)) * (len(room.floor) - len(room.targets))


def _pulled_apart(room: Room, player: int, targets: tuple[int, ...]) -> Position | None:
    """The position with the best score that depth-first reverse play meets, None if it meets none that counts.

    The score is how often another box was pulled than before, times the cells that boxes are away from their targets.
    """
    offsets = [room.offset(direction) for direction in Direction]
    best, best_score = None, 0
    seen: set[Position] = set()
    pending = [(player, targets, 0, -1, 1)]
    while pending:
        player, boxes, changes, last, depth = pending.pop()
        position = Position(player, frozenset(boxes))
        if position in seen or depth >= _DEEPEST:
            continue
        seen.add(position)
        score = changes * _distance(room, boxes, targets)
        if score > best_score and room.targets.isdisjoint((player, *boxes)):
            best, best_score = position, score
        pulls, walks = [], []
        for offset in offsets:
            ahead, behind = player + offset, player - offset
            if ahead not in room.floor or ahead in boxes:
                continue
            if behind in boxes:
                pulled = boxes.index(behind)
                moved = (*boxes[:pulled], player, *boxes[pulled + 1 :])
                pulls.append((ahead, moved, changes + (pulled != last), pulled, depth + 1))
                walks.append((ahead, boxes, changes, last, depth + 1))
            else:
                pulls.append((ahead, boxes, changes, last, depth + 1))
        pending.extend(reversed(pulls + walks))
    return best


def _distance(room: Room, boxes: tuple[int, ...], targets: tuple[int, ...]) -> int:
    """Rows and columns between boxes and the targets that they were pulled from, all together."""
    pairs = zip(boxes, targets, strict=True)
    return sum(
        abs(box // room.cols - target // room.cols) + abs(box % room.cols - target % room.cols) for box, target in pairs
    )


def _any_start(rng: random.Random, reverse: ReversePlay, min_moves: int) -> Position | None:
    """A start without a score: one of an allowed length, else the longest."""
    starts = reverse.starts()
    allowed = [position for position in starts if reverse.depth[position] >= min_moves]
    return rng.choice(allowed) if allowed else max(starts, key=reverse.depth.__getitem__, default=None)


def _walked(rng: random.Random, reverse: ReversePlay, start: Position) -> Position:
    """The start after the player's steps, which never turn back and leave the solution short enough."""
    passed = {start.player}
    for _ in range(_MOST_STEPS):
        if rng.random() >= _STEP_CHANCE:
            break
        beside = (start.player + reverse.room.offset(direction) for direction in Direction)
        free = [cell for cell in beside if cell in reverse.room.floor and cell not in start.boxes | passed]
        if not free:
            break
        after = Position(rng.choice(free), start.boxes)
        if after not in reverse.depth:
            break
        start = after
        passed.add(start.player)
    return start


class ReversePlay:
    """Every position from which the room is solved in at most `max_depth` moves, and the next move of each.

    depth: moves of the shortest solution. At most 60,000 positions are kept, the nearest to the solved room first.
    """

    def __init__(self, room: Room, max_depth: int) -> None:
        self.room = room
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
        return [position for position in self.depth if not position.boxes & self.room.targets]

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
        offset = self.room.offset(direction)
        behind, ahead = position.player - offset, position.player + offset
        if behind not in self.room.floor or behind in position.boxes:
            return []
        walked = Position(behind, position.boxes)
        if ahead not in position.boxes:
            return [walked]
        return [walked, Position(behind, position.boxes - {ahead} | {position.player})]
