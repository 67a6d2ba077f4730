"""The prompts of Sokoban: full (for instruction-tuned models) and compact (for small models).

The compact layout shows an attempt as its moves alone; the boards follow from them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from lamer.common.settings import Prompting
from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, MemoryWindow
from lamer.envs.prompts import CompactStyle, Labels, ParagraphStyle, PromptStyle, join_lines, titled
from lamer.envs.sokoban.room import Position, Room, symbols

_RULES = """\
You are playing Sokoban: you walk through a room and push boxes.

How to read the room:
# is a wall; neither you nor a box can go there.
_ is free floor.
O is a target, a place for a box.
X is a box that still has to be brought to a target.
√ is a box on a target.
P is you. S is you, standing on a target.

Goal: bring every box onto a target. Any box may go to any target.

Your moves are up, down, left and right:
- Walking into a box pushes it one cell onward, if the cell behind it is free of walls and boxes.
- You can push only one box at a time, and you can never pull one.
- A box in a corner can't be moved any more, and a box along a wall can't be brought away from it. \
Look some moves ahead so that no box gets stuck."""

_PLAY = {
    Prompting.REACT: """\
Choose your next moves. Think step by step first: find the boxes and the targets, plan how to get behind a box and \
push it towards a target, and stay clear of corners and walls that would trap it. \
Then give your next {actions} moves (or fewer), separated by commas, inside the tags: \
<action>move, move, ...</action>""",
    Prompting.ACT: """\
Choose your next moves. Answer with the moves alone and write nothing before them: your next {actions} moves \
(or fewer), separated by commas, inside the tags: <action>move, move, ...</action>""",
}

_REFLECT = """\
You did not bring all boxes home, and you will start over from the same room. \
Look back on this attempt before you do. Think step by step first: what was your way of playing, which moves helped, \
and where did it go wrong or waste moves? Then make a short plan for the next attempt from the start of the room \
that names the moves you should make instead. \
Finish with your lessons and this plan inside the tags: <remark>lessons and plan</remark>"""


_LABELS = Labels(
    initial="The room at the start:",
    past="Your earlier attempts at this same room:",
    current="Your moves in this attempt so far:",
    before="Your attempts before the last one:",
    failed="Your moves in the last attempt, and the room after each turn:",
    play=_PLAY,
    reflect=_REFLECT,
)


class SokobanStyle(PromptStyle):
    """A layout of prompts that also decides how the room is written."""

    @abstractmethod
    def board(self, room: Room, position: Position) -> str:
        """The room as the policy sees it."""


class FullStyle(ParagraphStyle, SokobanStyle):
    """Rules in sentences, all rooms with row labels."""

    labels = _LABELS

    def __init__(self, actions: int) -> None:
        self._actions = actions

    def board(self, room: Room, position: Position) -> str:
        """One line a row, counted from 0: "2: # _ P O #"."""
        return "\n".join(f"{number}: {' '.join(row)}" for number, row in enumerate(symbols(room, position)))

    def introduction(self) -> str:
        """The rules of the game and its symbols."""
        return _RULES

    def present(self, view: PlayView) -> str:
        """The room."""
        return titled("The room at present:", view.observation)

    def request(self, prompting: Prompting) -> str:
        """As many moves as a turn takes."""
        return self.labels.play[prompting].format(actions=self._actions)


class SokobanCompactStyle(CompactStyle, SokobanStyle):
    """One rules line, rooms without labels, attempts as one line of moves."""

    reflection_request = "Reflect: <remark>note</remark>"

    def __init__(self, actions: int) -> None:
        self.rules = "P pushes X onto O."
        self.play_request = f"{actions} moves: <action>up, down</action>"

    def board(self, room: Room, position: Position) -> str:
        """One line a row: "# _ P O #"."""
        return "\n".join(" ".join(row) for row in symbols(room, position))

    def play(self, view: PlayView) -> str:
        """Rules, earlier attempts, moves so far, the room, the request."""
        return join_lines(self.rules, view.past, view.current, view.observation, self.play_request)

    def reflection(self, view: ReflectionView) -> str:
        """Rules, earlier attempts, the first room, the moves that failed, the request."""
        return join_lines(self.rules, view.past, view.initial, view.current, self.reflection_request)

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """The moves of the last turns on one line: "moved up, left; down"."""
        shown = steps[max(len(steps) - window.steps, 0) :]
        return f"moved {'; '.join(step.action for step in shown)}" if shown else ""
