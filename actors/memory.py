"""What later prompts of a trial are shown of what came before: the trial's memory.

    Memory           finished attempts, as the memory mode keeps them      lives for one trial
    AttemptMemory    the steps of the attempt that is being played         lives for one episode

Both give text through the environment's own rendering (`Env.render_steps`, `Env.render_past`) and windows.
"""

from __future__ import annotations

from common.messages import MemoryMode
from envs.base import Env, MemoryStep, PastAttempt, StepResult

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

    def for_playing(self) -> str:
        """The attempt inside its own play prompts; "" before its first step."""
        return self._env.render_steps(self._steps, self._env.windows.playing) if self._steps else ""

    def for_reflecting(self) -> str:
        """The attempt inside the prompt that asks for its reflection."""
        return self._env.render_steps(self._steps, self._env.windows.reflecting) if self._steps else ""


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

    def past(self) -> str:
        """The finished attempts inside any later prompt; "" in the first episode, and without memory."""
        if self._mode is MemoryMode.NONE or not self._attempts:
            return ""
        return self._env.render_past(self._attempts)
