"""The doors environment: parsing, play, anchor states.

The observation after a reset is always the same. What earlier openings revealed reaches the policy only through memory,
as lines like "3 left"; it is also the anchor state, the list of doors still possible.
"""

from __future__ import annotations

import random
import re

from lamer.envs.base import Observation, StepResult
from lamer.envs.doors.game import Doors, Hint
from lamer.envs.doors.prompts import DoorsCompactStyle
from lamer.envs.memory import MemoryWindow, MemoryWindows
from lamer.envs.parsing import between_tags
from lamer.envs.prompts import PromptedEnv, PromptStyle

SUCCESS_REWARD = 10.0

_DOOR = re.compile(r"[0-9]{1,3}")
_ONE_STEP = MemoryWindow(steps=1, observations=1)


class DoorsEnv(PromptedEnv):
    """One task: K doors, one opening an episode, reward 10 for the prize and 0 otherwise."""

    max_turns = 1
    windows = MemoryWindows(playing=_ONE_STEP, reflecting=_ONE_STEP, past=_ONE_STEP)

    def __init__(self, doors: int, prize: int, style: PromptStyle | None = None) -> None:
        """`style`: compact prompts when left out."""
        super().__init__(style or DoorsCompactStyle(doors))
        self._game = Doors(doors, prize)

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
