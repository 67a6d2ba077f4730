"""Processes that are killed in the middle of what they do to a journal, at one line of ours after the other."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from lamer.learner.journal import archiving, bodies, pruning, repairing, writer


def killed_copies(made: Path, work: Callable[[Path], None], every: int) -> Iterator[Path]:
    """Journals in copies of folder `made` to which a child process did `work` until it was killed, at line 1 that it
    executed of the journal's modules, at line 1 + `every`, ...; the last one comes through.
    """
    lines, code = 1, 9
    while code != 0:
        path = shutil.copytree(made, made.with_name(f"killed-at-line-{lines}")) / "journal.db"
        child = multiprocessing.get_context("fork").Process(target=_work_until, args=(path, work, lines))
        child.start()
        child.join()
        code = child.exitcode or 0
        assert code in (0, 9)
        yield path
        lines += every


class _Killer:
    """Ends the process at the n-th line of ours that it comes to, in whatever thread."""

    FILES = frozenset(str(module.__file__) for module in (archiving, bodies, pruning, repairing, writer))

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame: FrameType, event: str, _: object) -> _Killer | None:
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os._exit(9)
        return self


def _work_until(path: Path, work: Callable[[Path], None], lines: int) -> None:
    killer = _Killer(lines)
    threading.settrace(killer)
    sys.settrace(killer)
    work(path)
