"""Open a lock: each try sets all dials, and a wrong one is answered with how many of them are right."""

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


@dataclass(frozen=True)
class LockConfig:
    """dials: how many. digits: that each of them shows, from 1. tries: of one attempt."""

    dials: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    digits: Annotated[int, msgspec.Meta(ge=2, le=9)] = 3
    tries: Annotated[int, msgspec.Meta(ge=1, le=9)] = 2


class LockEnv(Env):
    """One lock, over all episodes of a trial."""

    windows = MemoryWindows(playing=WINDOW, reflecting=WINDOW, past=WINDOW)

    def __init__(self, config: LockConfig, code: tuple[str, ...]) -> None:
        self.max_turns = config.tries
        self._config, self._code, self._left = config, code, config.tries

    def reset(self) -> Observation:
        self._left = self.max_turns
        return Observation("closed", anchor_state="closed")

    def step(self, response: str) -> StepResult:
        self._left -= 1
        setting = (between_tags(response, "action") or "").split()
        if len(setting) != len(self._code) or not all(digit.isdecimal() for digit in setting):
            seen = Observation("no setting", anchor_state=f"{self._left} left")
            return StepResult(None, seen, 0.0, is_done=self._left == 0, is_solved=False)
        right = sum(digit == wanted for digit, wanted in zip(setting, self._code, strict=True))
        is_open = right == len(self._code)
        seen = Observation(f"{right} right", anchor_state=f"{setting}, {right} right, {self._left} left")
        done = is_open or self._left == 0
        return StepResult(" ".join(setting), seen, 10.0 if is_open else 0.0, is_done=done, is_solved=is_open)

    def render_steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        return join_lines(*(f"{step.action}: {step.observation}" for step in steps[-window.steps :]))

    def render_past(self, attempts: Sequence[PastAttempt]) -> str:
        return join_lines(*(self.render_steps(attempt.steps, self.windows.past) for attempt in attempts))

    def play_prompt(self, view: PlayView) -> str:
        request = f"Set {len(self._code)} dials, 1 to {self._config.digits}: <action>digits</action>"
        return join_lines(view.past, view.current, request)

    def reflection_prompt(self, view: ReflectionView) -> str:
        return join_lines(view.past, view.current, "Still closed. What do you know? <remark>note</remark>")

    def parse_reflection(self, response: str) -> str | None:
        return parse_remark(response)

    def random_response(self, rng: random.Random) -> str:
        return f"<action>{self._draw(rng)}</action>"

    def random_reflection(self, rng: random.Random) -> str:
        return f"<remark>not {self._draw(rng)}</remark>"

    def _draw(self, rng: random.Random) -> str:
        return " ".join(str(rng.randint(1, self._config.digits)) for _ in self._code)


class LockFactory(EnvFactory[LockConfig]):
    name = "lock"
    config_class = LockConfig

    def make(self, config: LockConfig, seed: int) -> LockEnv:
        rng = task_rng("lock", f"{config.dials}x{config.digits}", seed)
        return LockEnv(config, tuple(str(rng.randint(1, config.digits)) for _ in range(config.dials)))


FACTORY = LockFactory()
