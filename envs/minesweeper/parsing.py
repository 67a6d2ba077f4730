"""Which cell a response names."""

from __future__ import annotations

import re

from lamer.envs.minesweeper.field import Cell
from lamer.envs.parsing import between_tags

LARGEST_NAMED = 9
"""Rows and columns of the largest board whose cells have names: "i9" is the last."""

_NAME = re.compile(r"([a-i])([1-9])")
_CELL = re.compile(r"\(_*([0-9]{1,4})_*,_*([0-9]{1,4})_*\)".replace("_", r"[^\S\n]"))


def parse_cell(response: str) -> Cell | None:
    """The first "(row, column)" between the first pair of action tags, in range or not; None when there is none.

    White space inside the brackets doesn't matter, but a cell stands on one line. Digits are 0 to 9, at most four of
    them, without a sign.
    """
    match = _CELL.search(between_tags(response, "action") or "")
    return (int(match[1]), int(match[2])) if match else None


def render_cell(cell: Cell) -> str:
    """A cell as memory shows it: "(3, 4)"."""
    return f"({cell[0]}, {cell[1]})"


def cell_name(cell: Cell) -> str:
    """The row as a letter and the column as a digit: (2, 3) is "b3"."""
    return f"{chr(ord('a') + cell[0] - 1)}{cell[1]}"


def parse_name(response: str) -> Cell | None:
    """The cell whose name a response is, white space around it aside; None when it is anything else."""
    match = _NAME.fullmatch(response.strip())
    return (ord(match[1]) - ord("a") + 1, int(match[2])) if match else None
