"""Bodies that no resumed training needs any more move from the journal into compressed segments.

    covered(step) -> what can move -> a segment, synced -> its rows name it and let their bodies go -> the next segment

A checkpoint of update s that is durable covers the trials of every batch up to s, the evaluations of versions up to s,
and the trials of dropped groups whose oldest token is of a version before s. A batch claimed later stays in the
journal. All of them are read as before (`learner.journal.bodies`), so a run that has to go back to an earlier
checkpoint finds its trials where they are.

Compression happens in threads that read the journal beside its writer; the writer only lets bodies go, at most
`_COMMIT_BYTES` of them a commit. A body leaves its row only in the commit that names its place, and only if it is the
body that lies there. Killed at any point, the process leaves every body in at least one place; a segment that the
journal began, and that no row names, is removed at the next start. SQLite uses the pages of bodies that went for those
that come: the file stays as large as what was stored between two checkpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lamer.common.errors import BadInput, Missing
from lamer.learner.journal.bodies import (
    COLUMNS,
    HAS_ENDED,
    SOURCE,
    UPDATE,
    Bodies,
    Place,
    free_name,
    segments_folder,
    sweep,
    write_segment,
)
from lamer.learner.journal.reader import opened
from lamer.learner.journal.writer import Journal

log = logging.getLogger("lamer.journal")

_SEGMENT_BYTES = 64 * 1024 * 1024
_COMMIT_BYTES = 2 * 1024 * 1024
ItemT = TypeVar("ItemT")
_MOVABLE = f"""
SELECT trial_id, {UPDATE} AS of_update, length(body)
FROM trials WHERE {HAS_ENDED} AND of_update <= ? AND length(body) > 0 ORDER BY of_update, group_id, slot
"""


@dataclass(frozen=True, slots=True)
class _Movable:
    """A trial whose body can leave the journal. update: see `learner.journal.bodies`. size: of its body, in bytes."""

    trial_id: str
    update: int
    size: int


class Archiver:
    """Moves the bodies of one run's journal, for the event loop that made it. One a journal, beside its writer."""

    def __init__(self, path: Path, journal: Journal) -> None:
        """path: of the journal's file."""
        self._path = path
        self._journal = journal
        self._step = 0
        self._asked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def covered(self, step: int) -> None:
        """A durable checkpoint covers everything up to update `step`: move it, in the background."""
        self._step = step
        self._asked.set()
        self._idle.clear()

    async def run(self) -> None:
        """Move what is covered, until cancelled.

        Raises:
            RunFailed: the journal can't be written.
        """
        await asyncio.to_thread(_sweep, self._path)
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._move(self._step)
            except (OSError, Missing) as error:
                folder = segments_folder(self._path)
                log.warning("bodies stay in %s, since they can't be moved to %s: %s", self._path, folder, error)
            if not self._asked.is_set():
                self._idle.set()

    async def settled(self, seconds: float) -> None:
        """Wait until everything asked for has been moved, `seconds` at most; what is left moves after a resumption."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    async def _move(self, step: int) -> None:
        movable = await asyncio.to_thread(_movable, self._path, step)
        for part in _cut(movable, [one.size for one in movable], _SEGMENT_BYTES):
            updates = [one.update for one in part]
            name = free_name(segments_folder(self._path), min(updates), max(updates))
            await self._journal.begin_segment(name)
            places = await asyncio.to_thread(_write, self._path, name, part)
            for some in _cut(places, [place.body_bytes for place in places], _COMMIT_BYTES):
                await self._journal.move(some)


def _movable(path: Path, step: int) -> tuple[_Movable, ...]:
    with opened(path) as connection:
        return tuple(_Movable(*row) for row in connection.execute(_MOVABLE, (step,)))


def _cut(items: Sequence[ItemT], sizes: Sequence[int], most: int) -> Iterator[Sequence[ItemT]]:
    """Runs of items whose sizes are not over `most` together, but for a run of one."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield items[start:index]
            start, total = index, 0
        total += size
    if start < len(items):
        yield items[start:]


def _write(path: Path, name: str, part: Sequence[_Movable]) -> tuple[Place, ...]:
    with opened(path) as connection:
        return write_segment(segments_folder(path), name, _bodies(connection, Bodies(path), part))


def _bodies(connection: sqlite3.Connection, loaded: Bodies, part: Iterable[_Movable]) -> Iterator[tuple[str, bytes]]:
    query = f"SELECT {COLUMNS} FROM {SOURCE} WHERE trial_id = ? AND length(body) > 0"
    for one in part:
        row = connection.execute(query, (one.trial_id,)).fetchone()
        if row is None:  # an evaluation's trial that was forgotten meanwhile
            continue
        try:
            yield one.trial_id, loaded.load(row)
        except BadInput as error:  # it stays where it is, and is refused there
            log.warning("%s", error)


def _sweep(path: Path) -> None:
    with opened(path) as connection:
        for left in sweep(connection, segments_folder(path)):
            log.info("%s was left by a process that was killed, and is removed", left)
