"""Open a lock of two dials: a wrong setting of them is answered with how many of the dials are right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from lamer.envs.base import Env, EnvFactory, Observation, PlayView, ReflectionView, StepResult
from lamer.envs.memory import MemoryStep, MemoryWindow, MemoryWindows, PastAttempt
from lamer.envs.parsing import between_tags, parse_remark
from lamer.envs.prompts import join_lines
from lamer.envs.seeding import task_rng

WINDOW = MemoryWindow(steps=9, observations=9)


LETTERS = "abcdefghi"


@dataclass(frozen=True)
class LockConfig:
    """positions: of each dial; the first shows letters from a, the second digits from 1. tries: of one attempt."""

    positions: Annotated[int, msgspec.Meta(ge=2, le=9)] = 2
    tries: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1


class LockEnv(Env):
    """One lock, over all episodes of a trial."""

    windows = MemoryWindows(playing=WINDOW, reflecting=WINDOW, past=WINDOW)

    def __init__(self, config: LockConfig, code: str) -> None:
        self.max_turns = config.tries
        self._settings, self._code, self._left = all_settings(config), code, config.tries
        self._tried: set[str] = set()

    def reset(self) -> Observation:
        self._left = self.max_turns
        return Observation("closed", anchor_state="closed")

    def step(self, response: str) -> StepResult:
        self._left -= 1
        setting = (between_tags(response, "action") or "").strip()
        if setting not in self._settings:
            seen = Observation("no setting", anchor_state=f"{self._left} left")
            return StepResult(None, seen, 0.0, is_done=self._left == 0, is_solved=False)
        self._tried.add(setting)
        right = sum(shown == wanted for shown, wanted in zip(setting, self._code, strict=True))
        is_open = right == len(self._code)
        seen = Observation(f"{right} right", anchor_state=f"{setting}, {right} right, {self._left} left")
        done = is_open or self._left == 0
        return StepResult(setting, seen, 10.0 if is_open else 0.0, is_done=done, is_solved=is_open)

    def render_steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """A line for each try, "a1=0 right": a pocket tokenizer makes one token of a setting and its hint."""
        return join_lines(*(f"{step.action}={step.observation}" for step in steps[-window.steps :]))

    def render_past(self, attempts: Sequence[PastAttempt]) -> str:
        return join_lines(*(self.render_steps(attempt.steps, self.windows.past) for attempt in attempts))

    def play_prompt(self, view: PlayView) -> str:
        """The request first and the last try last, next to the answer."""
        return join_lines("Set the dials: <action>letter, digit</action>", view.past, view.current)

    def reflection_prompt(self, view: ReflectionView) -> str:
        return join_lines(view.past, view.current, "Still closed. What do you know? <remark>note</remark>")

    def parse_reflection(self, response: str) -> str | None:
        return parse_remark(response)

    def random_response(self, rng: random.Random) -> str:
        """A setting not tried before: a pocket model learns to read the tries before it learns what hints mean."""
        left = [setting for setting in self._settings if setting not in self._tried] or self._settings
        return f"<action>{rng.choice(left)}</action>"

    def random_reflection(self, rng: random.Random) -> str:
        return f"<remark>not {rng.choice(self._settings)}</remark>"


def all_settings(config: LockConfig) -> tuple[str, ...]:
    """Every setting of the two dials, such as "b2"."""
    return tuple(
        f"{letter}{digit}" for letter in LETTERS[: config.positions] for digit in range(1, config.positions + 1)
    )


class LockFactory(EnvFactory[LockConfig]):
    name = "lock"
    config_class = LockConfig

    def make(self, config: LockConfig, seed: int) -> LockEnv:
        rng = task_rng("lock", str(config.positions), seed)
        return LockEnv(config, rng.choice(all_settings(config)))


FACTORY = LockFactory()
