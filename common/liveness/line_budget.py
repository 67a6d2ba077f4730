"""What others say, in a log: on one line each, clipped, and no more lines of a kind than a budget."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from lamer.common.text import one_line

LINES = 20
SECONDS = 10.0
LONGEST_LINE = 2000
_KINDS = 256


class LineBudget(logging.Filter):
    """Lets `LINES` lines of a kind through in `SECONDS`; the next one that passes says how many were left out.

    A kind is what was logged before its values were put in, so that neither many peers nor one with many names can fill
    the disk. Control characters in values come out escaped: a value can't pass for a line of its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, never going back."""
        super().__init__()
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._lines: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; its message becomes one line."""
        kind, now = str(record.msg)[:LONGEST_LINE], self._clock()
        left_out = 0
        if kind not in self._begun or now - self._begun[kind] >= SECONDS:
            left_out = max(0, self._lines.get(kind, 0) - LINES)
            if len(self._begun) >= _KINDS:
                self._begun.clear()
                self._lines.clear()
            self._begun[kind], self._lines[kind] = now, 0
        self._lines[kind] += 1
        if self._lines[kind] > LINES:
            return False
        told = f" ({left_out} lines like this one were left out before it)" if left_out else ""
        record.msg, record.args = one_line(record.getMessage(), LONGEST_LINE) + told, None
        return True


@contextlib.contextmanager
def limited(log: logging.Logger) -> Iterator[None]:
    """While inside, `log` keeps to a budget of its own."""
    budget = LineBudget()
    log.addFilter(budget)
    try:
        yield
    finally:
        log.removeFilter(budget)
