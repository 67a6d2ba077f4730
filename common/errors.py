"""Errors that a user can act on, each with the exit code of the process that it ends.

0 ok, 1 the run failed, 2 bad configuration or input, 3 something needed is missing or unreachable, 130 interrupted.
A trainer that ran out of memory says so to the learner by 4; for the run, that is 1.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

MALFORMED = (ValueError, RecursionError, MemoryError)
"""What decoding bytes from elsewhere raises, of JSON and MessagePack alike: also for those nested beyond the stack, or
that would not fit.
"""


class LamerError(Exception):
    """Base: `lamer` prints the message as one line and exits with `exit_code`."""

    exit_code = 1


class RunFailed(LamerError):
    """The run itself went wrong (a process died too often, a loss was not finite)."""

    exit_code = 1


class OutOfMemory(RunFailed):
    """The trainer does not fit its device: trying again would end the same way."""

    exit_code = 1
    trainer_code = 4
    """Of the trainer's process."""


class BadInput(LamerError):
    """A configuration, flag, file or peer's request that can't be used as it is."""

    exit_code = 2


class Missing(LamerError):
    """Something needed is not there or can't be reached: a folder, a package, a port, a server, a learner."""

    exit_code = 3


_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_ROOM = "free some space (`lamer journal prune` deletes old trials), then go on with --resume"


def failure_of(error: BaseException) -> LamerError | None:
    """What a user can do about an error, or about the first such in a group of them; None for a defect of ours."""
    found = list(_leaves(error))
    for leaf in found:
        if isinstance(leaf, LamerError):
            return leaf
    for leaf in found:
        number = leaf.errno if isinstance(leaf, OSError) else None
        if number in _FULL or "os error 28" in str(leaf):  # safetensors raises errors of its own
            return RunFailed(f"the disk is full ({leaf}): {_ROOM}")
        if number in _TOO_MANY_FILES:
            return RunFailed(f"too many files are open ({leaf}): raise the limit (`ulimit -n`) and go on with --resume")
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, in groups in it, and what caused each; or the error alone."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
        return
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def advice_for(error: BaseException) -> str:
    """What to do about an error of the operating system or of SQLite, to be put behind it; "" if there is nothing."""
    said = str(error)
    return f"; the disk is full: {_ROOM}" if "No space left on device" in said or "disk is full" in said else ""
