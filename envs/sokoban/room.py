"""The rules of Sokoban. Cells are numbered row by row: cell = row * cols + column, both counted from 0."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Direction(enum.StrEnum):
    """The four moves of the player."""

    UP = "up"
    DOWN = "down"
    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Room:
    """What never changes: `floor` holds every cell without a wall, targets among them; the border is all wall."""

    rows: int
    cols: int
    floor: frozenset[int]
    targets: frozenset[int]

    def __post_init__(self) -> None:
        if not self.targets or not self.targets <= self.floor:
            raise ValueError(f"targets {sorted(self.targets)} must be cells of the floor")
        if any(not self.is_inside(cell) for cell in self.floor):
            raise ValueError(f"the border of a room of {self.rows} x {self.cols} cells must be wall")

    def is_inside(self, cell: int) -> bool:
        """Whether a cell lies within the border."""
        row, column = divmod(cell, self.cols)
        return 0 < row < self.rows - 1 and 0 < column < self.cols - 1

    def offset(self, direction: Direction) -> int:
        """What a step in `direction` adds to a cell's number."""
        match direction:
            case Direction.UP:
                return -self.cols
            case Direction.DOWN:
                return self.cols
            case Direction.LEFT:
                return -1
            case Direction.RIGHT:
                return 1


@dataclass(frozen=True, slots=True)
class Position:
    """What play changes: where the player and the boxes stand."""

    player: int
    boxes: frozenset[int]


def move(room: Room, position: Position, direction: Direction) -> Position:
    """The position after one move; the same object when a wall, or a box that can't be pushed, is in the way."""
    offset = room.offset(direction)
    ahead = position.player + offset
    if ahead not in room.floor:
        return position
    if ahead not in position.boxes:
        return Position(ahead, position.boxes)
    beyond = ahead + offset
    if beyond not in room.floor or beyond in position.boxes:
        return position
    return Position(ahead, position.boxes - {ahead} | {beyond})


def is_solved(room: Room, position: Position) -> bool:
    """Whether every box stands on a target."""
    return position.boxes <= room.targets


def symbols(room: Room, position: Position) -> list[list[str]]:
    """The room as a player sees it, [rows][cols]: # _ O X P, "√" a box on a target, S the player on a target."""
    cells = range(room.rows * room.cols)
    flat = [_symbol(room, position, cell) for cell in cells]
    return [flat[start : start + room.cols] for start in range(0, len(flat), room.cols)]


def _symbol(room: Room, position: Position, cell: int) -> str:
    if cell not in room.floor:
        return "#"
    is_target = cell in room.targets
    if cell == position.player:
        return "S" if is_target else "P"
    if cell in position.boxes:
        return "√" if is_target else "X"
    return "O" if is_target else "_"
