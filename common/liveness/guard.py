"""What a loop that receives does with one message, so that no message ends the loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from lamer.common.errors import LamerError


@contextlib.contextmanager
def surviving(log: logging.Logger, message: object, sender: str) -> Iterator[None]:
    """Deal with one message inside. An error that nobody foresaw is a defect that this message found: it is logged
    with its traceback, the message is given up, and the receiving loop goes on. What is meant to end the process, a
    `LamerError`, passes.

    log: one with a budget (`common.liveness.line_budget`), since a peer decides how often this happens.
    """
    try:
        yield
    except LamerError:
        raise
    except Exception:
        log.exception("a %s from %s could not be dealt with and is given up", type(message).__name__, sender)
