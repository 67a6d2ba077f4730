"""Errors that a user can act on, each with the exit code of the process that it ends.

0 ok, 1 the run failed, 2 bad configuration or input, 3 something needed is missing or unreachable, 130 interrupted.
"""

from __future__ import annotations


class LamerError(Exception):
    """Base: `lamer` prints the message as one line and exits with `exit_code`."""

    exit_code = 1


class RunFailed(LamerError):
    """The run itself went wrong (a process died too often, a loss was not finite)."""

    exit_code = 1


class BadInput(LamerError):
    """A configuration, flag, file or peer's request that can't be used as it is."""

    exit_code = 2


class Missing(LamerError):
    """Something needed is not there or can't be reached: a folder, a package, a port, a server, a learner."""

    exit_code = 3


def advice_for(error: BaseException) -> str:
    """What to do about an error of the operating system or of SQLite, to be put behind it; "" if there is nothing."""
    said = str(error)
    if "No space left on device" in said or "disk is full" in said:
        return (
            "; the disk is full: free some space (`lamer journal prune` deletes old trials), then go on with "
            "`lamer train --resume`"
        )
    return ""
