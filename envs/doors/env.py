"""The doors environment: compact prompts (a late episode takes at most 64 tokens of a small tokenizer), parsing, play.

The observation after a reset is always the same. What earlier openings revealed reaches the policy only through memory,
as lines like "3 left"; it is also the anchor state, the list of doors still possible.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from envs.base import (
    Env,
    MemoryStep,
    MemoryWindow,
    MemoryWindows,
    Observation,
    PastAttempt,
    PlayView,
    ReflectionView,
    StepResult,
)
from envs.doors.game import Doors, Hint
from envs.parsing import between_tags, parse_remark

SUCCESS_REWARD = 10.0

_DOOR = re.compile(r"[0-9]{1,3}")
_ONE_STEP = MemoryWindow(steps=1, observations=1)


class DoorsEnv(Env):
    """One task: K doors, one opening an episode, reward 10 for the prize and 0 otherwise."""

    max_turns = 1
    windows = MemoryWindows(playing=_ONE_STEP, reflecting=_ONE_STEP, past=_ONE_STEP)

    def __init__(self, doors: int, prize: int) -> None:
        self._game = Doors(doors, prize)
        self._rules = f"Doors 1 to {doors} hide one prize."

    def reset(self) -> Observation:
        """Close all doors; what the trial has revealed stays in the anchor state."""
        return self._observe("closed")

    def step(self, response: str) -> StepResult:
        """Open the door named between the action tags; without one the episode fails and nothing is revealed."""
        door = self._parse_door(response)
        if door is None:
            return StepResult(None, self._observe("nothing"), reward=0.0, is_done=True, is_solved=False)
        hint = self._game.open(door)
        is_solved = hint is Hint.PRIZE
        reward = SUCCESS_REWARD if is_solved else 0.0
        return StepResult(str(door), self._observe(hint.value), reward=reward, is_done=True, is_solved=is_solved)

    def play_prompt(self, view: PlayView) -> str:
        """Rules, what memory keeps of earlier episodes, answer format."""
        return _lines(self._rules, view.past, "Open: <action>door</action>")

    def reflection_prompt(self, view: ReflectionView) -> str:
        """Rules, earlier episodes, the opening that just failed, answer format."""
        return _lines(self._rules, view.past, view.current, "Reflect: <remark>note</remark>")

    def render_steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """One line: the door opened and the hint."""
        return _lines(*(f"{step.action} {step.observation}" for step in steps[-window.steps :]))

    def render_past(self, attempts: Sequence[PastAttempt]) -> str:
        """Two lines an attempt at most: its opening, and its remark."""
        parts: list[str] = []
        for attempt in attempts:
            parts.append(self.render_steps(attempt.steps, self.windows.past))
            parts.append(" ".join(attempt.reflection.split()))
        return _lines(*parts)

    def parse_reflection(self, response: str) -> str | None:
        """The text between the remark tags."""
        return parse_remark(response)

    def random_response(self, rng: random.Random) -> str:
        """Open any of the K doors with equal chance, whatever is known: format, not skill."""
        return f"<action>{rng.randint(1, self._game.count)}</action>"

    def random_reflection(self, rng: random.Random) -> str:
        """A direction and a door drawn at random, whatever happened."""
        side = rng.choice((Hint.LEFT, Hint.RIGHT))
        return f"<remark>{side.value} {rng.randint(1, self._game.count)}</remark>"

    def _observe(self, text: str) -> Observation:
        return Observation(text, anchor_state=",".join(map(str, self._game.possible)))

    def _parse_door(self, response: str) -> int | None:
        """The door to open, None unless the tags hold a number from 1 to K."""
        match = _DOOR.fullmatch((between_tags(response, "action") or "").strip())
        door = int(match.group()) if match else 0
        return door if 1 <= door <= self._game.count else None


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
