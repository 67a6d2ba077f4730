"""How many requests this process may have at one server: additive increase, multiplicative decrease.

Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance in computer networks", 1989:
processes that raise their limits by steps and lower them by factors come to equal shares of a server, without talking
to one another. What they react to is the server's queue, as its host reports it for all actors together. The aim is a
short queue, not none, so that a server always has the next request at hand: above `LONG_QUEUE` of what it runs at once
a limit is lowered, by less than would empty the server; below `SHORT_QUEUE` one that is used up is raised; between them
nothing is done. A limit that was just lowered is left alone until no more requests are out than it allows, since till
then the queue is of the time before.

After a failure a limit starts again with one request, the probe, and grows by one with every success up to half of
where it was (slow start: Jacobson, "Congestion avoidance and control", 1988).
"""

from __future__ import annotations

import math

from lamer.common.messages import ServerInfo

SHORT_QUEUE = 1 / 16
LONG_QUEUE = 1 / 4
"""Shares of the requests that a server runs at once."""
INCREASE = 1 / 16
"""What a limit is raised by, as a share of the requests that the server runs at once."""
DECREASE = 0.85
"""A server with a queue of `LONG_QUEUE` keeps 1.25 * 0.85 = 1.06 times what it runs at once."""


class ConcurrencyLimit:
    """The limit of one process at one server; it starts at what the server runs at once, and is never below 1."""

    def __init__(self, max_running: int) -> None:
        self._limit = float(max(1, max_running))
        self._threshold = 1.0
        self._report = 0
        self._was_reached = False

    @property
    def value(self) -> int:
        """Requests that may be out at once."""
        return int(self._limit)

    def reached(self) -> None:
        """A request found the limit used up, or used it up itself."""
        self._was_reached = True

    def observe(self, server: ServerInfo, in_flight: int) -> None:
        """Take a server's load figures, once each report. in_flight: this process's requests there."""
        if server.report == self._report:
            return
        self._report = server.report
        capacity = max(1, server.max_running)
        was_reached, self._was_reached = self._was_reached, in_flight >= self.value
        if server.running == 0 and server.waiting > 0:
            return  # paused for new weights: its queue says nothing of its load
        if server.waiting > max(1.0, LONG_QUEUE * capacity):
            if in_flight <= self.value:
                self._limit = max(1.0, self._limit * DECREASE)
        elif was_reached and self._limit >= self._threshold and server.waiting <= math.ceil(SHORT_QUEUE * capacity):
            self._limit += max(1.0, INCREASE * capacity)

    def fail(self) -> None:
        """The server failed: the next request is a probe, alone."""
        if self._limit > 1.0:  # else it failed the probe, and what it could do before is known still
            self._threshold = max(1.0, self._limit / 2)
        self._limit = 1.0

    def succeed(self) -> None:
        """The server answered a request."""
        if self._limit < self._threshold:
            self._limit = min(self._threshold, self._limit + 1.0)
