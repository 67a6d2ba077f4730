"""What a loop that receives does with one message, so that no message ends the loop; and what a process ends with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from lamer.common.errors import LamerError, RunFailed, failure_of
from lamer.common.text import describe_error


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


def reason_of(log: logging.Logger, errors: BaseExceptionGroup[BaseException]) -> LamerError:
    """The one error that a group of them comes to for the user. Where none was meant for users, the tracebacks go to
    the log.
    """
    failure = failure_of(errors)
    if failure is not None and errors.subgroup(lambda error: error is failure) is not None:
        return failure
    log.error("this process ends", exc_info=errors)
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return failure or RunFailed(f"nobody foresaw this failure, {describe_error(found)}: its traceback is in the log")
