"""How many connections a process may hold, and that newcomers wait beyond it.

Every connection takes a file descriptor, whoever made it and whether or not it ever says a word; a process without free
ones can open no file. `allowance` gives the process as many as the system allows and says how many of them connections
may take; `ConnectionGate` counts connections and closes the door in time.

    0 ... open files ... connections ... most | kept for files | kept back: what still comes once the door is closed
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import Missing

log = logging.getLogger("lamer.connections")

MOST_OPEN_FILES = 65_536
MOST_KEPT = 64
"""Descriptors that connections never take: for the journal, weights, logs and what libraries open."""
MOST_BACKLOG = 100
"""Connections that the kernel has made and nobody has taken yet; so many may still come once the door is closed."""
LEAST_CONNECTIONS = 16
_REOPEN_AT = 0.9


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a process may have open.

    limit: all. kept: for files. backlog: of the listening socket. most: connections.
    """

    limit: int
    kept: int
    backlog: int
    most: int

    def keep_back(self) -> None:
        """Let nobody take the last descriptors yet: connections can come faster than they are counted."""
        self._set_soft(self.limit - self.kept - self.backlog)

    def give_all(self) -> None:
        """Let the last descriptors be taken: the door is closed."""
        self._set_soft(self.limit)

    def _set_soft(self, soft: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def allowance() -> Allowance:
    """Raise the soft limit of open files to the hard one, `MOST_OPEN_FILES` at most, and divide what there is.

    Raises:
        Missing: too few to work with.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    kept, backlog = min(MOST_KEPT, limit // 8), min(MOST_BACKLOG, limit // 8)
    others = _open_files() + 2 * kept + backlog
    if limit - others < LEAST_CONNECTIONS:
        raise Missing(
            f"this process may open {limit} files, and a learner needs {others + LEAST_CONNECTIONS} at least: raise "
            "the limit, for example by `ulimit -n 4096` in the shell that starts it"
        )
    return Allowance(limit, kept, backlog, limit - others)


def _open_files() -> int:
    """Descriptors that are open now; a guess where the system does not list them."""
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return len(os.listdir(folder))
    return 64


class ConnectionGate:
    """Counts connections by what a socket's monitor says, and has newcomers wait while there are `most` or more.

    For one thread. half_open: connections that have not exchanged keys yet.
    """

    def __init__(self, most: int, pause: Callable[[], bool], resume: Callable[[], None]) -> None:
        """pause: has newcomers wait, False if that can't be done here. resume: lets them in again."""
        self._most = most
        self._pause = pause
        self._resume = resume
        self._descriptors: set[int] = set()
        self.half_open = 0
        self.is_paused = False
        self._is_crowded = False

    @property
    def open(self) -> int:
        """Connections there are."""
        return len(self._descriptors)

    def accepted(self, descriptor: int) -> None:
        """Somebody connected."""
        self._descriptors.add(descriptor)
        self.half_open += 1
        if self.open >= self._most:
            self.exhausted()

    def exhausted(self) -> None:
        """There are no descriptors for more."""
        if not self.is_paused and self._pause():
            self.is_paused = True
            told = (self.open, min(self.half_open, self.open))
            log.warning("%d connections are open, %d without keys: newcomers wait until some are closed", *told)

    def crowd(self, is_crowded: bool) -> None:
        """Whether there is no memory for more, whatever the count."""
        if is_crowded:
            self.exhausted()
        self._is_crowded = is_crowded
        self._reopen()

    def shook_hands(self) -> None:
        """A connection exchanged keys, or failed to."""
        self.half_open = max(self.half_open - 1, 0)

    def closed(self, descriptor: int) -> None:
        """A connection is gone."""
        self._descriptors.discard(descriptor)
        self._reopen()

    def _reopen(self) -> None:
        if self.is_paused and not self._is_crowded and self.open < _REOPEN_AT * self._most:
            self._resume()
            self.is_paused = False
            log.info("%d connections are open: newcomers are let in again", self.open)
