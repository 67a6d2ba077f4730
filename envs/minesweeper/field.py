"""The rules of MineSweeper. Cells are (row, column), both counted from 1."""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping

Cell = tuple[int, int]


class Opening(enum.Enum):
    """What opening a cell did. NOTHING: it lies outside the board or was open already. CLEARED: the game is won."""

    NOTHING = enum.auto()
    ONE = enum.auto()
    SEVERAL = enum.auto()
    CLEARED = enum.auto()
    MINE = enum.auto()


class Minefield:
    """A square board of `size` x `size` cells with `mines`, and which cells are open."""

    def __init__(self, size: int, mines: frozenset[Cell]) -> None:
        self.size = size
        self.mines = mines
        self._neighbours = neighbours_of(size)
        self._open: set[Cell] = set()

    @property
    def hidden(self) -> tuple[Cell, ...]:
        """The closed cells, row by row."""
        return tuple(cell for cell in self._neighbours if cell not in self._open)

    @property
    def numbers(self) -> dict[Cell, int]:
        """The open cells without a mine, each with how many of its neighbours hold one."""
        return {cell: self.count(cell) for cell in self._open - self.mines}

    def count(self, cell: Cell) -> int:
        """Mines among the up to eight neighbours of a cell."""
        return len(self.mines & self._neighbours[cell])

    def open(self, cell: Cell) -> Opening:
        """Open one cell; one without a mine beside it opens the connected area of such cells and its border."""
        if cell not in self._neighbours or cell in self._open:
            return Opening.NOTHING
        if cell in self.mines:
            self._open.add(cell)
            return Opening.MINE
        opened_before = len(self._open)
        self._flood(cell)
        if len(self._open) == self.size**2 - len(self.mines):
            return Opening.CLEARED
        return Opening.ONE if len(self._open) == opened_before + 1 else Opening.SEVERAL

    def symbols(self) -> list[list[str]]:
        """What a player sees, [size][size]: "?" closed, "." open without mines beside it, their number, "*" a mine."""
        numbers = range(1, self.size + 1)
        return [[self._symbol((row, column)) for column in numbers] for row in numbers]

    def _flood(self, start: Cell) -> None:
        pending = [start]
        while pending:
            cell = pending.pop()
            if cell in self._open:
                continue
            self._open.add(cell)
            if self.count(cell) == 0:
                pending.extend(self._neighbours[cell] - self._open)

    def _symbol(self, cell: Cell) -> str:
        if cell not in self._open:
            return "?"
        if cell in self.mines:
            return "*"
        return str(self.count(cell) or ".")


@functools.lru_cache(maxsize=32)
def neighbours_of(size: int) -> Mapping[Cell, frozenset[Cell]]:
    """The up to eight neighbours of every cell of a square board, row by row."""
    numbers = range(1, size + 1)
    cells = [(row, column) for row in numbers for column in numbers]
    return {cell: frozenset(_around(cell)).intersection(cells) for cell in cells}


def _around(cell: Cell) -> list[Cell]:
    row, column = cell
    around = [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return [neighbour for neighbour in around if neighbour != cell]
