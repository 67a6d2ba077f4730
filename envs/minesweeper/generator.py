"""The board of a seed: where the mines are, and which safe cell is open at the start."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lamer.envs.minesweeper.field import Cell, Minefield, Opening
from lamer.envs.seeding import task_rng


@dataclass(frozen=True, slots=True)
class Layout:
    """A board before play: `first` is the cell that reset opens."""

    size: int
    mines: frozenset[Cell]
    first: Cell

    def lay(self) -> Minefield:
        """The board with its first cell open."""
        field = Minefield(self.size, self.mines)
        field.open(self.first)
        return field


@functools.lru_cache(maxsize=1024)
def draw_layout(size: int, mines: int, seed: int) -> Layout:
    """Mines uniform over the board and a first cell uniform over the safe ones; drawn again if that opens them all.

    Ends: with two safe cells or more (the configuration's rule), a first cell beside a mine opens nothing else.
    """
    rng = task_rng("minesweeper", size, mines, seed)
    cells = [(row, column) for row in range(1, size + 1) for column in range(1, size + 1)]
    while True:
        mined = frozenset(rng.sample(cells, mines))
        first = rng.choice([cell for cell in cells if cell not in mined])
        if Minefield(size, mined).open(first) is not Opening.CLEARED:
            return Layout(size, mined, first)
