"""Keeping a prompt within its budget of tokens by leaving out the oldest of what memory shows, and counting it.

What a prompt is made of is left out in this order, one piece at a time, until the rest fits:

    1. observations, the oldest first ("..." stands in their place): of the current attempt, then of past attempts
    2. steps, the oldest first: of the current attempt, then of past attempts (of each, all but its last)
    3. the steps of whole past attempts, the oldest attempt first

Never the rules, the first and the current observation, the admissible actions, reflections, or the request. A prompt
that is still too long then is a `ContextOverflow`.

    Cut        how much of memory a prompt shows
    cuts       the cuts of a prompt, from the least to the most
    Shortener  writes the prompt again under a cut, and finds the least cut that fits

A prompt that fits is never written again: shortening costs nothing until it is needed. Then a search by bisection
writes and encodes about six prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from lamer.actors.memory import AttemptMemory, Memory
from lamer.common.records import TokenIds
from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryWindow
from lamer.envs.results import checked_text

ViewT = TypeVar("ViewT", PlayView, ReflectionView)
Write = Callable[[str, str], str]
"""A prompt from what it shows of past attempts and of the current one."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of memory a prompt shows. current, past: windows of the current and of each past attempt.

    bare: so many of the past attempts, the oldest, show no steps.
    """

    current: MemoryWindow
    past: MemoryWindow
    bare: int = 0


def cuts(current: MemoryWindow, steps: int, past: MemoryWindow, attempts: Sequence[int]) -> tuple[Cut, ...]:
    """The cuts of a prompt that shows an attempt of `steps` steps and past attempts of `attempts[i]` steps each."""
    now = _used(current, steps)
    then = _used(past, max(attempts, default=0))
    found = [Cut(MemoryWindow(now.steps, left), then) for left in range(now.observations - 1, -1, -1)]
    now = MemoryWindow(now.steps, 0)
    found += [Cut(now, MemoryWindow(then.steps, left)) for left in range(then.observations - 1, -1, -1)]
    then = MemoryWindow(then.steps, 0)
    found += [Cut(MemoryWindow(left, 0), then) for left in range(now.steps - 1, -1, -1)]
    now = MemoryWindow(0, 0)
    found += [Cut(now, MemoryWindow(left, 0)) for left in range(then.steps - 1, 0, -1)]
    then = MemoryWindow(min(then.steps, 1), 0)
    found += [Cut(now, then, bare) for bare in range(1, len(attempts) + 1) if attempts[bare - 1]]
    return tuple(found)


def rewriter(write: Callable[[ViewT], str], view: ViewT) -> Write:
    """Writes the prompt of a view again, with other texts of past attempts and of the current one."""
    return lambda past, current: checked_text("a prompt", write(replace(view, past=past, current=current)))


class Shortener:
    """Writes one prompt again, shorter. window: of the attempt that it shows, uncut."""

    def __init__(self, memory: Memory, attempt: AttemptMemory, window: MemoryWindow, write: Write) -> None:
        self._memory = memory
        self._attempt = attempt
        self._window = window
        self._write = write

    def fit(self, encode: Callable[[str], TokenIds], budget: int) -> TokenIds:
        """The ids of the least shortened prompt within `budget` tokens; of the shortest one if none is."""
        whole = Cut(self._window, self._memory.past_window)
        found = (whole, *cuts(whole.current, len(self._attempt.steps), whole.past, self._memory.past_steps))
        low, high = 0, len(found) - 1
        fitting = encode(self._prompt(found[high]))
        while low < high:
            middle = (low + high) // 2
            ids = encode(self._prompt(found[middle]))
            if len(ids) <= budget:
                fitting, high = ids, middle
            else:
                low = middle + 1
        return fitting

    def _prompt(self, cut: Cut) -> str:
        return self._write(self._memory.past(cut.past, cut.bare), self._attempt.shown(cut.current))


def _used(window: MemoryWindow, steps: int) -> MemoryWindow:
    """The part of a window that so many steps fill."""
    shown = min(window.steps, steps)
    return MemoryWindow(shown, min(window.observations, shown))
