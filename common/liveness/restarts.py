"""How often something that ends is started again, and after how long. No clock inside: time is handed in.

Restarts   the budget of one process: spent by its ends, given back by the time that it is up
Clock      what the keepers of processes tell the time by, and wait with
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

HEALTHY_SECONDS = 600.0
"""One restart is given back for so long up, in one life or in several."""
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Clock:
    """now: seconds, never going back. sleep: waits for so many of them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Restarts:
    """The restarts of one process. most: in stock at once. used: of these, spent and not given back yet."""

    def __init__(self, most: int) -> None:
        """A process that has not been started yet."""
        self.most = most
        self.used = 0
        self._healthy = 0.0
        self._up_since = 0.0

    def started(self, now: float) -> None:
        """It is up from `now` on."""
        self._up_since = now

    def ended(self, now: float) -> float | None:
        """It ended: the seconds to wait before it is started again, which spends a restart; None if none is left.

        The wait doubles with each restart that is spent, and gets shorter as they are given back.
        """
        if self.used > 0:
            self._healthy += max(0.0, now - self._up_since)
            given_back = min(self.used, int(self._healthy // HEALTHY_SECONDS))
            self.used -= given_back
            self._healthy = self._healthy - given_back * HEALTHY_SECONDS if self.used else 0.0
        if self.used == self.most:
            return None
        wait: float = min(FIRST_WAIT_SECONDS * 2.0**self.used, LONGEST_WAIT_SECONDS)
        self.used += 1
        return wait
