"""The Sokoban environment: turns of several moves, what they pay, when an episode ends, scripted random play."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lamer.envs.base import Observation, StepResult
from lamer.envs.memory import MemoryWindow, MemoryWindows
from lamer.envs.prompts import PromptedEnv
from lamer.envs.sokoban.generator import Layout
from lamer.envs.sokoban.parsing import STILL, Move, parse_moves, render_moves
from lamer.envs.sokoban.prompts import SokobanStyle
from lamer.envs.sokoban.room import Direction, Position, Room, is_solved, move
from lamer.envs.sokoban.solver import is_deadlocked

RewardScheme = Literal["paper", "shaped"]

SOLVED_REWARD = 10.0
MOVE_REWARD = -0.1
BOX_REWARD = 1.0


@dataclass(frozen=True, slots=True)
class SokobanRules:
    """How a room is played. max_moves: an episode ends after so many (standing still does not count)."""

    max_turns: int
    actions_per_turn: int
    max_moves: int
    reward: RewardScheme
    end_on_deadlock: bool


def shaped_reward(room: Room, before: Position, after: Position, direction: Move) -> float:
    """-0.1 a move, 1 for each box brought onto a target, -1 for each taken off, 10 when a move leaves all in place."""
    if direction == STILL:
        return MOVE_REWARD
    boxes_gained = len(after.boxes & room.targets) - len(before.boxes & room.targets)
    return MOVE_REWARD + BOX_REWARD * boxes_gained + SOLVED_REWARD * is_solved(room, after)


class SokobanEnv(PromptedEnv):
    """One room; its text is the anchor state. A turn pays the sum of its moves and stops when the episode ends."""

    windows = MemoryWindows(
        playing=MemoryWindow(steps=7, observations=2),
        reflecting=MemoryWindow(steps=7, observations=7),
        past=MemoryWindow(steps=7, observations=2),
    )

    def __init__(self, layout: Layout, style: SokobanStyle, rules: SokobanRules) -> None:
        super().__init__(style)
        self.max_turns = rules.max_turns
        self._board_style = style
        self._rules = rules
        self._room = layout.room
        self._start = layout.start
        self._position = layout.start
        self._moves = 0

    def reset(self) -> Observation:
        """The same room with every box back at its start."""
        self._position = self._start
        self._moves = 0
        return self._observe()

    def step(self, response: str) -> StepResult:
        """Make the moves that the response names; one without a move changes nothing and pays like standing still."""
        moves = parse_moves(response, self._rules.actions_per_turn)
        reward, is_done = 0.0, False
        for direction in moves or (STILL,):
            paid, is_done = self._play(direction)
            reward += paid
            if is_done:
                break
        return StepResult(
            action=render_moves(moves) if moves else None,
            observation=self._observe(),
            reward=reward,
            is_done=is_done,
            is_solved=is_solved(self._room, self._position),
        )

    def random_response(self, rng: random.Random) -> str:
        """From one to the most moves a turn, each uniform over the four directions."""
        count = rng.randint(1, self._rules.actions_per_turn)
        return f"<action>{render_moves(_random_moves(rng, count))}</action>"

    def random_reflection(self, rng: random.Random) -> str:
        """Two directions drawn at random, whatever happened."""
        return f"<remark>{render_moves(_random_moves(rng, 2))}</remark>"

    def _play(self, direction: Move) -> tuple[float, bool]:
        """One move: what it pays, and whether the episode is over."""
        before = self._position
        if direction != STILL:
            self._position = move(self._room, before, direction)
            self._moves += 1
        solved = is_solved(self._room, self._position)
        is_done = solved or self._moves >= self._rules.max_moves or self._is_stuck(before)
        if self._rules.reward == "paper":
            return SOLVED_REWARD * solved, is_done
        return shaped_reward(self._room, before, self._position, direction), is_done

    def _is_stuck(self, before: Position) -> bool:
        """Whether the rules end a deadlock and the last move, a push, made one."""
        has_pushed = before.boxes != self._position.boxes
        return self._rules.end_on_deadlock and has_pushed and is_deadlocked(self._room, self._position)

    def _observe(self) -> Observation:
        board = self._board_style.board(self._room, self._position)
        return Observation(board, anchor_state=board)


def _random_moves(rng: random.Random, count: int) -> tuple[Move, ...]:
    return tuple(rng.choice(tuple(Direction)) for _ in range(count))
