"""The prompts of MineSweeper: full (for instruction-tuned models) and compact (for models of a few hundred tokens).

The compact layout shows a past attempt as its last board alone, which tells what was opened and where a mine was hit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from common.settings import Prompting
from envs.base import MemoryStep, MemoryWindow, PlayView, ReflectionView
from envs.minesweeper.field import Minefield
from envs.prompts import CompactStyle, PromptStyle, join_paragraphs, titled

_RULES = """\
You are playing Minesweeper. The board has {size} rows and {size} columns and hides {mines} mines. \
Rows and columns are counted from 1 to {size}, starting in the top left corner.

How to read a cell:
? is closed and may hide a mine.
. is open, and no neighbour of it holds a mine.
1 to 8 is open, and the number says how many of its up to eight neighbours (diagonal ones too) hold a mine.
* is a mine that was opened.

Goal: open all cells that hold no mine, and never open a mine. Work out from the numbers which cells are safe.

Each turn you open one closed cell (?):
- If no neighbour of it holds a mine, the whole connected region of such cells opens, with the numbers around it.
- If some neighbour does, this cell alone opens and shows how many.
- If it is a mine, you have lost and the attempt is over."""

_PLAY = {
    Prompting.REACT: """\
Choose your next move. Think step by step first: go through the open numbers and infer what the closed cells (?) hold. \
Then name exactly ONE closed cell to open, as (row, col) inside the tags: <action>(row, col)</action>""",
    Prompting.ACT: """\
Choose your next move. Answer with the move alone and write nothing before it: exactly ONE closed cell to open, \
as (row, col) inside the tags: <action>(row, col)</action>""",
}

_REFLECT = """\
You did not clear the board, and you will start over from the same board with the same mines. \
Look back on this attempt before you do. Think step by step first: which moves helped, which were mistakes or wasted, \
and what do you know by now about where the mines are? Then make a short plan for the next attempt that names the \
cells to open and those to leave closed. \
Finish with your lessons and this plan inside the tags: <remark>lessons and plan</remark>"""


class MinesweeperStyle(PromptStyle):
    """A layout of prompts that also decides how the board is written."""

    @abstractmethod
    def board(self, field: Minefield) -> str:
        """The board as the policy sees it."""


class FullStyle(MinesweeperStyle):
    """Rules in sentences, all boards with row labels."""

    def __init__(self, size: int, mines: int) -> None:
        self._rules = _RULES.format(size=size, mines=mines)

    def board(self, field: Minefield) -> str:
        """One line a row: "Row 2: ? . 1 *"."""
        return "\n".join(f"Row {number}: {' '.join(row)}" for number, row in enumerate(field.symbols(), start=1))

    def play(self, view: PlayView) -> str:
        """Rules, first board, earlier attempts, moves so far, present board, request."""
        return join_paragraphs(
            self._rules,
            titled("The board at the start:", view.initial),
            titled("Your earlier attempts at this same board:", view.past),
            titled("Your moves in this attempt so far:", view.current),
            titled("The board at present:", view.observation),
            _PLAY[view.prompting],
        )

    def reflection(self, view: ReflectionView) -> str:
        """Rules, first board, earlier attempts, the lost attempt, request."""
        return join_paragraphs(
            self._rules,
            titled("The board at the start:", view.initial),
            titled("Your attempts before the last one:", view.past),
            titled("Your moves in the last attempt, and the board after each:", view.current),
            _REFLECT,
        )


class MinesweeperCompactStyle(CompactStyle, MinesweeperStyle):
    """One rules line, boards with one short line a row."""

    play_request = "Open: <action>(row,col)</action>"
    reflection_request = "Reflect: <remark>note</remark>"

    def __init__(self, mines: int) -> None:
        self.rules = f"{mines} mines hide under ?."

    def board(self, field: Minefield) -> str:
        """One line a row: "2 ? . 1 *"."""
        return "\n".join(f"{number} {' '.join(row)}" for number, row in enumerate(field.symbols(), start=1))

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """The board after the last step."""
        return steps[-1].observation if steps and window.observations else ""
