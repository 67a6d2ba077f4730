"""Trials that can't be what was leased, kept for whoever wants to know: a bounded number of files and bytes."""

from __future__ import annotations

import logging
from pathlib import Path

from lamer.common.messages import TrialDone
from lamer.common.text import one_line

log = logging.getLogger("lamer.gateway")

QUARANTINE_FILES = 100
_LONGEST_PROBLEM = 1000


class Quarantine:
    """The folder quarantine/ of a run: N.msgpack is a trial as it came, N.txt its id and what is wrong with it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """most_bytes: of all trials in it together, those of the run's earlier lives as well."""
        self._folder = folder
        self._most_bytes = most_bytes
        kept = list(folder.glob("*.msgpack")) if folder.is_dir() else []
        self._files = len(kept)
        self._bytes = sum(path.stat().st_size for path in kept)

    def keep(self, message: TrialDone, problem: str) -> None:
        """Keep a trial, if there is room."""
        size = len(message.body)
        has_room = self._files < QUARANTINE_FILES and self._bytes + size <= self._most_bytes
        where = f"goes to {self._folder}" if has_room else f"is given up, since {self._folder} is full"
        log.warning("%s is no valid trial and %s: %s", message.trial_id, where, problem)
        if not has_room:
            return
        name = f"{self._files:03}"
        told = f"{one_line(message.trial_id, _LONGEST_PROBLEM)}\n{one_line(problem, _LONGEST_PROBLEM)}\n"
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / f"{name}.msgpack").write_bytes(message.body)
            (self._folder / f"{name}.txt").write_text(told, encoding="utf-8")
        except OSError as error:  # the run can do without it
            log.warning("%s can't be kept in quarantine: %s", message.trial_id, error)
        else:
            self._files += 1
            self._bytes += size
