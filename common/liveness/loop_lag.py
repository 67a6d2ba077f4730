"""How late an event loop comes to what is due: while it is blocked, nothing is heard, sent or counted."""

from __future__ import annotations

import asyncio
import logging

PERIOD_SECONDS = 0.1
WARNING_SECONDS = 1.0


class LoopLag:
    """Measures the running event loop while `watch` runs, and warns in the log when it was blocked for long."""

    def __init__(self, log: logging.Logger) -> None:
        """log: of whose loop it is."""
        self._log = log
        self._longest = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + PERIOD_SECONDS
            await asyncio.sleep(PERIOD_SECONDS)
            lag = max(0.0, clock() - due)
            self._longest = max(self._longest, lag)
            if lag >= WARNING_SECONDS:
                self._log.warning("the event loop was blocked: it came %.1f s late to what was due", lag)

    def take(self) -> float:
        """The longest lag since this was last asked, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest
