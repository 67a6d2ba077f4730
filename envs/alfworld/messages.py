"""What an environment of ALFWorld asks of a game in a worker process, and what it gets back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamer.envs.alfworld.games import GameFiles


class HouseSpec(msgspec.Struct, frozen=True, array_like=True):
    """Which game to open."""

    dataset: str
    name: str

    @property
    def files(self) -> GameFiles:
        """The game's files."""
        return GameFiles(Path(self.dataset), self.name)


class Reset(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Start over: answered by a `Scene`."""


class Step(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give a command: answered by a `Scene`."""

    command: str


class Plan(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask the planner for the rest of the way: answered by a `Way`. The game must have been reset."""


class Solve(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Compile the game and have the planner solve it, once and for all: answered by a `Way`."""


class Scene(msgspec.Struct, frozen=True, array_like=True):
    """text: what the engine says. commands: the admissible ones, sorted, without help."""

    text: str
    commands: tuple[str, ...]
    is_solved: bool


class Way(msgspec.Struct, frozen=True, array_like=True):
    """Commands that reach the goal, None where the planner has found that no way exists."""

    commands: tuple[str, ...] | None


AnyRequest = Reset | Step | Plan | Solve
