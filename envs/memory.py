"""What memory hands to the prompts of an environment: steps, finished attempts, and how much of them is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryWindow:
    """How much of an attempt a prompt shows: the last `steps` steps, the last `observations` of them in full."""

    steps: int
    observations: int


@dataclass(frozen=True, slots=True)
class MemoryWindows:
    """The windows of the attempt being played, of that attempt in its reflection prompt, and of past attempts."""

    playing: MemoryWindow
    reflecting: MemoryWindow
    past: MemoryWindow


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """One step as memory keeps it: the action as parsed (or what stands in its place) and what followed."""

    action: str
    observation: str


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """A finished attempt as memory hands it out: `steps` empty or `reflection` "" where the mode leaves it out."""

    index: int
    steps: tuple[MemoryStep, ...]
    reflection: str
