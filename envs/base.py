"""What an environment is: the protocol every game, shop and house implements, and the values that pass through it.

One `Env` object lives for one trial. `reset` starts the next episode from the same initial state, so an environment may
remember what earlier episodes revealed (the doors environment needs that for its anchor states); what the *policy* is
shown of earlier episodes is decided by `actors.memory`, which renders it and hands it to the prompts in a view.

Actors await `start` and `play`, scripts and terminals call `reset` and `step`: the same thing. An environment whose
engine takes its time overrides all four, so that no actor's event loop waits for it (`envs.workers`); nothing else of
an environment may block.

An `EnvFactory` is what a registry name stands for: the environment's own configuration class, a way to make an `Env`
from a configuration and a seed, and the scripted and exact references to compare results with.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lamer.common.settings import Prompting
from lamer.envs import history
from lamer.envs.memory import MemoryStep, MemoryWindow, MemoryWindows, PastAttempt

ConfigT = TypeVar("ConfigT")


class EnvironmentFault(RuntimeError):
    """The environment itself failed (an engine crashed, data is broken): the trial's slot is leased again."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the policy sees of the state, and the state by which GiGPO groups steps (without history)."""

    text: str
    anchor_state: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one response did. `action` is the parsed action as memory shows it, None if the response held none.

    score: how good the outcome is by the environment's own measure, where it has one beside the reward; for people, not
    for training.
    """

    action: str | None
    observation: Observation
    reward: float
    is_done: bool
    is_solved: bool
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PlayView:
    """What a play prompt is made of.

    initial: the observation after reset. observation: the current one. past: earlier attempts as rendered by memory, ""
    in the first episode or without memory. current: this attempt's steps so far as rendered by memory, "" at its first
    turn. prompting: whether to ask for reasoning before the action, where the layout has room for it.
    """

    initial: str
    observation: str
    past: str
    current: str
    episode: int
    turn: int
    prompting: Prompting = Prompting.REACT


@dataclass(frozen=True, slots=True)
class ReflectionView:
    """What a reflection prompt is made of: the attempt that just failed (`current`) and those before it (`past`)."""

    initial: str
    past: str
    current: str
    episode: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An exact or scripted figure to read a result against: `pass_at[k]` = solved within k + 1 attempts."""

    name: str
    pass_at: tuple[float, ...]


class Env(ABC):
    """One task, played over one trial. Not thread-safe; `close` is called once at the end."""

    max_turns: int
    windows: MemoryWindows
    stop: tuple[str, ...] = ("</action>",)
    reflection_stop: tuple[str, ...] = ("</remark>",)

    @abstractmethod
    def reset(self) -> Observation:
        """Start an episode from the task's initial state; every call gives the same text."""

    @abstractmethod
    def step(self, response: str) -> StepResult:
        """Parse a response, apply its action and pay for it; what a response without one does, the environment says."""

    async def start(self) -> Observation:
        """`reset`, without keeping an event loop from its other work."""
        return self.reset()

    async def play(self, response: str) -> StepResult:
        """`step`, without keeping an event loop from its other work."""
        return self.step(response)

    @abstractmethod
    def play_prompt(self, view: PlayView) -> str:
        """The user message that asks for the next action."""

    @abstractmethod
    def reflection_prompt(self, view: ReflectionView) -> str:
        """The user message that asks what to learn from the attempt."""

    def render_steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """Steps of one attempt as text, within a window: "Action k: ..." and "Observation k: ..." lines by default."""
        return history.render_steps(steps, window)

    def render_past(self, attempts: Sequence[PastAttempt]) -> str:
        """Finished attempts as text, as `PlayView.past` and `ReflectionView.past`; "" when there are none."""
        return history.render_past(attempts, self.windows.past, self.render_steps)

    @abstractmethod
    def parse_reflection(self, response: str) -> str | None:
        """The remark that memory keeps, None when the response holds none."""

    @abstractmethod
    def random_response(self, rng: random.Random) -> str:
        """A well-formed response with a uniformly random legal action: scripted play for the warm start."""

    @abstractmethod
    def random_reflection(self, rng: random.Random) -> str:
        """A well-formed reflection that teaches nothing: scripted play for the warm start."""

    def close(self) -> None:  # noqa: B027 - most environments hold nothing
        """Release what the environment holds."""


class EnvFactory(ABC, Generic[ConfigT]):
    """What an environment's name stands for. `config_class`: a frozen dataclass with the paper's sizes as defaults."""

    name: str
    config_class: type[ConfigT]

    @abstractmethod
    def make(self, config: ConfigT, seed: int) -> Env:
        """The environment of one task: a pure function of `config` and `seed`."""

    def check_data(self, config: ConfigT) -> None:
        """Refuse a configuration whose data is not on this machine; called before anything is made or started.

        Raises:
            Missing: files that do not come with lamer are absent; the message says which command brings them.
        """

    def references(self, config: ConfigT, episodes: int) -> tuple[Reference, ...]:
        """Figures to show beside a result; none by default."""
        return ()
