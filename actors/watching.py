"""Watching a trial while it is played: `Stage.watcher` is told of every step and of every episode's end."""

from __future__ import annotations

from lamer.common.records import Episode
from lamer.envs.base import StepResult


class Watcher:
    """Looks on and does nothing; `lamer play` shows what it is told."""

    def saw_step(self, episode: int, turn: int, result: StepResult) -> None:
        """Turn `turn` of episode `episode` was played."""

    def saw_episode(self, episode: Episode) -> None:
        """An episode ended, played out or failed."""


NOBODY = Watcher()
