"""The rules of doors, and what a player who remembers every opening of the trial can know."""

from __future__ import annotations

import enum


class Hint(enum.StrEnum):
    """What an opening tells: the prize is here, at a lower number, at a higher number."""

    PRIZE = "prize"
    LEFT = "left"
    RIGHT = "right"


class Doors:
    """Doors 1..count with the prize behind one; remembers over the episodes of a trial which are still possible."""

    def __init__(self, count: int, prize: int) -> None:
        self.count = count
        self.prize = prize
        self._low = 1
        self._high = count

    @property
    def possible(self) -> range:
        """The doors that may hide the prize given all openings so far."""
        return range(self._low, self._high + 1)

    def open(self, door: int) -> Hint:
        """Open one of the doors 1..count."""
        if door == self.prize:
            self._low = self._high = door
            return Hint.PRIZE
        if self.prize < door:
            self._high = min(self._high, door - 1)
            return Hint.LEFT
        self._low = max(self._low, door + 1)
        return Hint.RIGHT
