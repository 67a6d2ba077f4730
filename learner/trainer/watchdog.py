"""Work that hangs is noticed: the stacks of all threads go to the log, and the process ends.

A thread can't be ended from outside. So `Watchdog.run` raises `Hung`, and the process has to go by `leave`, which waits
for no thread. Work that holds Python's lock while it hangs stops the event loop as well: a timer of faulthandler's,
which needs no lock, then does the same a little later.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Coroutine
from typing import NoReturn, TypeVar

from lamer.common.errors import RunFailed

log = logging.getLogger("lamer.trainer")

Result = TypeVar("Result")

GRACE_SECONDS = 60.0


class Hung(RunFailed):
    """Work did not end in time; its thread is still there."""


class Watchdog:
    """Waits `seconds` at most for one piece of work at a time, whatever blocks in its threads."""

    def __init__(self, seconds: float, grace: float = GRACE_SECONDS) -> None:
        """grace: after so many more seconds a process whose event loop does not notice ends, with exit code 1."""
        self._seconds = seconds
        self._grace = grace

    async def run(self, name: str, work: Coroutine[None, None, Result]) -> Result:
        """What `work` returns.

        Raises:
            Hung: it takes longer.
        """
        faulthandler.dump_traceback_later(self._seconds + self._grace, exit=True)
        working = asyncio.create_task(work, name=name)
        try:
            await asyncio.wait({working}, timeout=self._seconds)
            if working.done():
                return working.result()
            log.error("%s has not ended after %g s; what every thread is doing:", name, self._seconds)
            faulthandler.dump_traceback(all_threads=True)
            raise Hung(
                f"{name} has not ended after {self._seconds:g} s: it hangs, as the stacks in the log show, or "
                "trainer.watchdog_seconds is too low for it"
            )
        finally:
            faulthandler.cancel_dump_traceback_later()
            working.cancel()


def leave(failure: RunFailed) -> NoReturn:
    """End this process with the failure's line and exit code, without waiting for a thread that hangs."""
    print(f"lamer: {failure}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(failure.exit_code)
