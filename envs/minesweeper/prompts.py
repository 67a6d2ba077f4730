"""The prompts of MineSweeper, and how a response names a cell in each.

    full      for instruction-tuned models: rules and requests in sentences
    compact   for models of a few hundred tokens: a rules line, small boards, the same tags
    dense     for models that learn on a CPU: boards alone, one line each, in which every cell is one token of the
              pocket tokenizer that says where it is: "b3" is closed, "b3=1" open; the answer is a closed cell's name

Compact and dense show a past attempt as its last board alone, which tells what was opened and where a mine was hit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from lamer.common.settings import Prompting
from lamer.envs.base import PlayView
from lamer.envs.memory import MemoryStep, MemoryWindow
from lamer.envs.minesweeper.field import Cell, Minefield
from lamer.envs.minesweeper.parsing import cell_name, parse_cell, parse_name
from lamer.envs.prompts import CompactStyle, Labels, ParagraphStyle, PromptStyle, titled

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


_LABELS = Labels(
    initial="The board at the start:",
    past="Your earlier attempts at this same board:",
    current="Your moves in this attempt so far:",
    before="Your attempts before the last one:",
    failed="Your moves in the last attempt, and the board after each:",
    play=_PLAY,
    reflect=_REFLECT,
)


class MinesweeperStyle(PromptStyle):
    """A layout of prompts that also decides how the board is written, and how a response names a cell.

    stop: texts that end a response.
    """

    stop: tuple[str, ...] = ("</action>",)

    @abstractmethod
    def board(self, field: Minefield) -> str:
        """The board as the policy sees it."""

    def answer(self, cell: Cell) -> str:
        """The response that opens a cell."""
        return f"<action>({cell[0]},{cell[1]})</action>"

    def parse(self, response: str) -> Cell | None:
        """The cell that a response names, on the board or not; None when it names none."""
        return parse_cell(response)

    def remark(self, cell: Cell) -> str:
        """A reflection that names a cell."""
        return f"<remark>mine {cell[0]} {cell[1]}</remark>"


class FullStyle(ParagraphStyle, MinesweeperStyle):
    """Rules in sentences, all boards with row labels."""

    labels = _LABELS

    def __init__(self, size: int, mines: int) -> None:
        self._rules = _RULES.format(size=size, mines=mines)

    def board(self, field: Minefield) -> str:
        """One line a row: "Row 2: ? . 1 *"."""
        return "\n".join(f"Row {number}: {' '.join(row)}" for number, row in enumerate(field.symbols(), start=1))

    def introduction(self) -> str:
        """The rules of the game and its symbols."""
        return self._rules

    def present(self, view: PlayView) -> str:
        """The board."""
        return titled("The board at present:", view.observation)


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


class DenseStyle(CompactStyle, MinesweeperStyle):
    """The number of mines and boards, nothing else: three boards of 4 x 4 cells take 55 tokens with their template.

    A cell's token tells its place, which two layers could not well work out from the order of tokens. A name's digit
    ends the response, so that an action is one token, and all of its log-probability is the choice.
    """

    play_request = ""
    reflection_request = "?"

    def __init__(self, size: int, mines: int) -> None:
        self.rules = f" {mines}"
        self.stop = tuple(str(column) for column in range(1, size + 1))

    def board(self, field: Minefield) -> str:
        """One line, row by row, with a space before every cell: " a1 a2=. b1=1 b2=*"; " a1" is a closed cell."""
        rows = enumerate(field.symbols(), start=1)
        return "".join("".join(map(_dense_cell, _cells_of(number, row), row)) for number, row in rows)

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """The board after the last step."""
        return steps[-1].observation if steps and window.observations else ""

    def remark_line(self, reflection: str) -> str:
        """A reflection on one line, words written as cells are."""
        return "".join(f" {word}" for word in reflection.split())

    def answer(self, cell: Cell) -> str:
        """The cell's name as boards show it."""
        return f" {cell_name(cell)}"

    def parse(self, response: str) -> Cell | None:
        """The cell whose name the whole response is."""
        return parse_name(response)

    def remark(self, cell: Cell) -> str:
        """The cell's name between the tags."""
        return f"<remark> {cell_name(cell)}</remark>"


def _cells_of(row: int, symbols: Sequence[str]) -> list[Cell]:
    return [(row, column) for column in range(1, len(symbols) + 1)]


def _dense_cell(cell: Cell, symbol: str) -> str:
    return f" {cell_name(cell)}" if symbol == "?" else f" {cell_name(cell)}={symbol}"
