"""What later prompts of a trial are shown of what came before: the trial's memory.

    Memory           finished attempts, as the memory mode keeps them      lives for one trial
    AttemptMemory    the steps of the attempt that is being played         lives for one episode

Both give text through the environment's own rendering (`Env.render_steps`, `Env.render_past`) and windows, or through
smaller windows where a prompt has to be shortened (`actors.shortening`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from lamer.common.records import MemoryMode
from lamer.envs.base import Env, StepResult
from lamer.envs.memory import MemoryStep, MemoryWindow, PastAttempt
from lamer.envs.results import checked_text

INVALID_ACTION = "invalid"
"""Stands in memory where a response held no action."""


class AttemptMemory:
    """The steps of one attempt, in order."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._steps: list[MemoryStep] = []

    @property
    def steps(self) -> tuple[MemoryStep, ...]:
        """Every step so far."""
        return tuple(self._steps)

    def add(self, result: StepResult) -> None:
        """Keep a step: its action as parsed, or `INVALID_ACTION`, and the observation that followed."""
        action = INVALID_ACTION if result.action is None else result.action
        self._steps.append(MemoryStep(action, result.observation.text))

    def shown(self, window: MemoryWindow) -> str:
        """The attempt inside a window; "" before its first step and in a window of no steps."""
        if not self._steps or not window.steps:
            return ""
        return checked_text("what render_steps returned", self._env.render_steps(self._steps, window))

    def for_playing(self) -> str:
        """The attempt inside its own play prompts; "" before its first step."""
        return self.shown(self._env.windows.playing)

    def for_reflecting(self) -> str:
        """The attempt inside the prompt that asks for its reflection."""
        return self.shown(self._env.windows.reflecting)


class Memory:
    """The finished attempts of a trial."""

    def __init__(self, env: Env, mode: MemoryMode) -> None:
        self._env = env
        self._mode = mode
        self._attempts: list[PastAttempt] = []

    def add(self, attempt: AttemptMemory, reflection: str) -> None:
        """Keep a finished attempt: its trajectory, its reflection, both or neither, as the mode says."""
        steps = attempt.steps if self._mode.has_trajectories else ()
        text = reflection if self._mode.has_reflections else ""
        self._attempts.append(PastAttempt(len(self._attempts), steps, text))

    @property
    def past_window(self) -> MemoryWindow:
        """The window through which past attempts are shown, uncut."""
        return self._env.windows.past

    @property
    def past_steps(self) -> tuple[int, ...]:
        """How many steps memory keeps of each finished attempt."""
        return tuple(len(attempt.steps) for attempt in self._attempts)

    def past(self, window: MemoryWindow | None = None, bare: int = 0) -> str:
        """The finished attempts inside any later prompt; "" in the first episode, and without memory.

        Args:
            window: of each attempt; the environment's own where it is left out.
            bare: so many attempts, the oldest, are shown without their steps.
        """
        if self._mode is MemoryMode.NONE or not self._attempts:
            return ""
        attempts = [replace(each, steps=()) if each.index < bare else each for each in self._attempts]
        with _past_window(self._env, window or self.past_window):
            return checked_text("what render_past returned", self._env.render_past(attempts))


@contextlib.contextmanager
def _past_window(env: Env, window: MemoryWindow) -> Iterator[None]:
    """While inside, the environment shows past attempts through `window`."""
    own = env.windows
    if window == own.past:
        yield
        return
    env.windows = replace(own, past=window)
    try:
        yield
    finally:
        env.windows = own
