"""Which cell a response names."""

from __future__ import annotations

import re

from envs.minesweeper.field import Cell
from envs.parsing import between_tags

_CELL = re.compile(r"\(([0-9]{1,4}), *([0-9]{1,4})\)")


def parse_cell(response: str) -> Cell | None:
    """The first "(row, column)" between the first pair of action tags, in range or not; None when there is none."""
    match = _CELL.search(between_tags(response, "action") or "")
    return (int(match[1]), int(match[2])) if match else None


def render_cell(cell: Cell) -> str:
    """A cell as memory shows it: "(3, 4)"."""
    return f"({cell[0]}, {cell[1]})"
