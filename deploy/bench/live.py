"""A `PacedEngine` on the wall's clock: awaitable requests, and a timer that sleeps from event to event.

The virtual clock runs `time_scale` times as fast as the wall's. A late wake-up delays an answer but no virtual time:
what the engine did by then is computed exactly.
"""

from __future__ import annotations

import asyncio
import time

from lamer.common.records import FinishReason
from lamer.deploy.bench.pace import NEVER, Finished, Pace, PacedEngine, Totals


class DuplicateRequestError(ValueError):
    """A request with this id is still in the engine."""


class LiveEngine:
    """Belongs to one event loop. Changes take effect at the moment of the call."""

    def __init__(self, pace: Pace, version: str, time_scale: float) -> None:
        self._engine = PacedEngine(pace, version)
        self._time_scale = time_scale
        self._origin = time.monotonic()
        self._pending: dict[str, asyncio.Future[Finished]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._accepts = asyncio.Event()
        self._accepts.set()
        self._is_drained = asyncio.Event()
        self._is_drained.set()

    @property
    def version(self) -> str:
        """The label of the weights that generate tokens at this moment."""
        return self._engine.version

    @property
    def is_paused(self) -> bool:
        """Whether generation stands still."""
        return self._engine.is_paused

    @property
    def pending(self) -> int:
        """Requests that have not been answered."""
        return len(self._pending)

    async def generate(self, rid: str, prompt_tokens: int, length: int, finish: FinishReason) -> Finished:
        """Run a request to its end. Cancelling the call aborts it.

        Raises:
            DuplicateRequestError: `rid` is in use.
        """
        await self._accepts.wait()
        if rid in self._pending:
            raise DuplicateRequestError(f"Duplicate request ID: {rid}")
        future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._pending[rid] = future
        self._is_drained.clear()
        self._engine.submit(self._now(), rid, prompt_tokens, length, finish)
        self._settle()
        try:
            return await future
        except asyncio.CancelledError:
            self.abort(rid)
            raise

    def abort(self, rid: str) -> None:
        """End a request with the tokens it has; an unknown one is ignored."""
        self._engine.abort(self._now(), rid)
        self._settle()

    def abort_all(self) -> None:
        """End every request with the tokens it has."""
        self._engine.abort_all(self._now())
        self._settle()

    def pause(self, retract: bool) -> None:
        """Stand still; new requests queue."""
        self._engine.pause(self._now(), retract)
        self._settle()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._engine.resume(self._now())
        self._settle()

    def set_version(self, version: str) -> None:
        """Later tokens carry this label."""
        self._engine.set_version(self._now(), version)
        self._settle()

    async def drained_set_version(self, version: str) -> None:
        """Hold new requests, wait for those in the engine, and label later tokens: an update without a pause."""
        self._accepts.clear()
        try:
            await self._is_drained.wait()
            self.set_version(version)
        finally:
            self._accepts.set()

    def loads(self) -> tuple[int, int]:
        """Sequences running and waiting."""
        self._advance()
        return self._engine.running, self._engine.waiting

    def totals(self) -> Totals:
        """The counters at this moment."""
        totals = self._engine.totals(self._now())
        self._settle()
        return totals

    def _now(self) -> float:
        """Simulated seconds since the engine was made."""
        return (time.monotonic() - self._origin) * self._time_scale

    def _advance(self) -> None:
        self._engine.advance(self._now())
        self._settle()

    def _settle(self) -> None:
        """Hand out what has left the engine, and set the timer for its next event."""
        for finished in self._engine.take_finished():
            future = self._pending.pop(finished.sequence.rid, None)
            if future is not None and not future.done():
                future.set_result(finished)
        if not self._pending:
            self._is_drained.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        event = self._engine.next_event()
        if event != NEVER:
            wall = self._origin + event / self._time_scale - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(wall, 0.0), self._advance)
