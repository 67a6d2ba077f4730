"""The MineSweeper environment: what openings pay, and scripted random play."""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import Literal

from lamer.envs.base import Observation, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows
from lamer.envs.minesweeper.field import Opening
from lamer.envs.minesweeper.generator import Layout
from lamer.envs.minesweeper.parsing import render_cell
from lamer.envs.minesweeper.prompts import MinesweeperStyle
from lamer.envs.prompts import PromptedEnv

RewardScheme = Literal["paper", "shaped", "even"]

_REWARDS = MappingProxyType(
    {
        "paper": {
            Opening.NOTHING: 0.0,
            Opening.ONE: 0.0,
            Opening.SEVERAL: 0.0,
            Opening.CLEARED: 10.0,
            Opening.MINE: 0.0,
        },
        "shaped": {
            Opening.NOTHING: -1.0,
            Opening.ONE: 0.5,
            Opening.SEVERAL: 2.0,
            Opening.CLEARED: 10.0,
            Opening.MINE: -0.1,
        },
        "even": {
            Opening.NOTHING: -1.0,
            Opening.ONE: 1.0,
            Opening.SEVERAL: 1.0,
            Opening.CLEARED: 3.0,
            Opening.MINE: -1.0,
        },
    }
)


class MinesweeperEnv(PromptedEnv):
    """One board. The anchor state is the board's text. A response without a cell counts as opening nothing."""

    windows = MemoryWindows(
        playing=MemoryWindow(steps=7, observations=2),
        reflecting=MemoryWindow(steps=7, observations=7),
        past=MemoryWindow(steps=7, observations=2),
    )

    def __init__(self, layout: Layout, style: MinesweeperStyle, reward: RewardScheme, max_turns: int) -> None:
        super().__init__(style)
        self.max_turns = max_turns
        self.stop = style.stop
        self._board_style = style
        self._layout = layout
        self._rewards = _REWARDS[reward]
        self._field = layout.lay()

    def reset(self) -> Observation:
        """The same board with the same first cell open."""
        self._field = self._layout.lay()
        return self._observe()

    def step(self, response: str) -> StepResult:
        """Open the cell that the response names; a cell outside the board or open already changes nothing."""
        cell = self._board_style.parse(response)
        opening = self._field.open(cell) if cell else Opening.NOTHING
        return StepResult(
            action=render_cell(cell) if cell else None,
            observation=self._observe(),
            reward=self._rewards[opening],
            is_done=opening in (Opening.CLEARED, Opening.MINE),
            is_solved=opening is Opening.CLEARED,
        )

    def random_response(self, rng: random.Random) -> str:
        """Open any closed cell with equal chance."""
        return self._board_style.answer(rng.choice(self._field.hidden))

    def random_reflection(self, rng: random.Random) -> str:
        """Name a cell drawn uniformly from the whole board, whatever happened."""
        row, column = (rng.randint(1, self._field.size) for _ in range(2))
        return self._board_style.remark((row, column))

    def _observe(self) -> Observation:
        board = self._board_style.board(self._field)
        return Observation(board, anchor_state=board)
