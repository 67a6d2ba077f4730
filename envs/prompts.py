"""How an environment writes prompts, apart from its rules: one `PromptStyle` a layout (full, compact).

`PromptedEnv` is an `Env` that hands everything about prompts and memory to its style.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamer.common.settings import Prompting
from lamer.envs import history
from lamer.envs.base import Env, PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, MemoryWindow, PastAttempt
from lamer.envs.parsing import parse_remark


class PromptStyle(ABC):
    """The prompts of one environment in one layout, and how memory looks in them."""

    @abstractmethod
    def play(self, view: PlayView) -> str:
        """The user message that asks for the next action."""

    @abstractmethod
    def reflection(self, view: ReflectionView) -> str:
        """The user message that asks what to learn from the attempt that just failed."""

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """Steps of one attempt."""
        return history.render_steps(steps, window)

    def past(self, attempts: Sequence[PastAttempt], window: MemoryWindow) -> str:
        """Finished attempts."""
        return history.render_past(attempts, window, self.steps)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a full prompt says above each of its paragraphs, and asks for at its end.

    initial: above the observation after reset; "" where a prompt doesn't show it. past, current: above earlier attempts
    and this one's steps in a play prompt. before, failed: above the same in a reflection prompt. play, reflect: the
    requests.
    """

    past: str
    current: str
    before: str
    failed: str
    play: Mapping[Prompting, str]
    reflect: str
    initial: str = ""


class ParagraphStyle(PromptStyle):
    """Full prompts for instruction-tuned models: titled paragraphs, the same ones in every environment."""

    labels: Labels

    @abstractmethod
    def introduction(self) -> str:
        """The rules, the first paragraph of every prompt."""

    @abstractmethod
    def present(self, view: PlayView) -> str:
        """The paragraphs about the present state in a play prompt."""

    def request(self, prompting: Prompting) -> str:
        """The last paragraph of a play prompt."""
        return self.labels.play[prompting]

    def play(self, view: PlayView) -> str:
        """Rules, the start, earlier attempts, steps so far, the present state, the request."""
        return join_paragraphs(
            self.introduction(),
            self._start(view.initial),
            titled(self.labels.past, view.past),
            titled(self.labels.current, view.current),
            self.present(view),
            self.request(view.prompting),
        )

    def reflection(self, view: ReflectionView) -> str:
        """Rules, the start, earlier attempts, the failed attempt, the request."""
        return join_paragraphs(
            self.introduction(),
            self._start(view.initial),
            titled(self.labels.before, view.past),
            titled(self.labels.failed, view.current),
            self.labels.reflect,
        )

    def _start(self, initial: str) -> str:
        return titled(self.labels.initial, initial) if self.labels.initial else ""


class CompactStyle(PromptStyle):
    """Short prompts for small models: a rules line, what memory keeps, the board, the answer format."""

    rules: str
    play_request: str
    reflection_request: str

    def play(self, view: PlayView) -> str:
        """Rules, earlier attempts, the board, the request."""
        return join_lines(self.rules, view.past, view.observation, self.play_request)

    def reflection(self, view: ReflectionView) -> str:
        """Rules, earlier attempts, the attempt that just failed, the request."""
        return join_lines(self.rules, view.past, view.current, self.reflection_request)

    def past(self, attempts: Sequence[PastAttempt], window: MemoryWindow) -> str:
        """Every attempt's steps, then its remark on one line."""
        parts: list[str] = []
        for attempt in attempts:
            parts.append(self.steps(attempt.steps, window) if attempt.steps else "")
            parts.append(self.remark_line(attempt.reflection))
        return join_lines(*parts)

    def remark_line(self, reflection: str) -> str:
        """A reflection on one line."""
        return " ".join(reflection.split())


class PromptedEnv(Env):
    """An environment whose prompts and memory are written by a `PromptStyle`."""

    def __init__(self, style: PromptStyle) -> None:
        self._style = style

    def play_prompt(self, view: PlayView) -> str:
        """The style's play prompt."""
        return self._style.play(view)

    def reflection_prompt(self, view: ReflectionView) -> str:
        """The style's reflection prompt."""
        return self._style.reflection(view)

    def render_steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """Steps as the style shows them."""
        return self._style.steps(steps, window)

    def render_past(self, attempts: Sequence[PastAttempt]) -> str:
        """Finished attempts as the style shows them."""
        return self._style.past(attempts, self.windows.past)

    def parse_reflection(self, response: str) -> str | None:
        """The text between the remark tags."""
        return parse_remark(response)


def join_lines(*parts: str) -> str:
    """The parts that are not empty, each on lines of its own."""
    return "\n".join(part for part in parts if part)


def join_paragraphs(*parts: str) -> str:
    """The parts that are not empty, with an empty line between two of them."""
    return "\n\n".join(part for part in parts if part)


def titled(title: str, body: str) -> str:
    """A paragraph under its title, "" when there is no body."""
    return f"{title}\n{body}" if body else ""
