"""Where a trial's body is: in its row of the journal, in a frame of a segment, or nowhere once it was pruned.

    <run>/journal.db          table trials: a body that is not empty is the body; table bodies: what is known of it
    <run>/segments/000001-000020.zst     bodies of updates 1 to 20: zstd frames, each of a few trials

A segment appears whole or not at all and never changes. Its name says what lies in it when it is written: training
trials by their update, those of a dropped group by the first update that they could have been in, evaluations by the
version that they measure. `zstd -d` reads it. A frame is read without those before it; it holds what neighbours in
the order of a batch share, such as the prompts of one group, once.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from lamer.common.codec import MAX_MESSAGE_BYTES
from lamer.common.errors import BadInput, Missing

SEGMENTS = "segments"
PRUNED = ""
"""In the place of a segment's name: the body was deleted on purpose."""
TABLE = """
CREATE TABLE IF NOT EXISTS bodies(
    trial_id TEXT PRIMARY KEY, checksum INTEGER, segment TEXT, frame_offset INTEGER, frame_bytes INTEGER,
    body_offset INTEGER, body_bytes INTEGER
) WITHOUT ROWID;
"""
"""Beside `trials`, whose columns end in the body: SQLite walks through all of a long body to a column behind it.

A journal that an earlier lamer wrote has no such table until it is opened for writing.
"""
INDEX = "CREATE INDEX IF NOT EXISTS bodies_of_segment ON bodies(segment);"
SOURCE = "trials LEFT JOIN bodies USING (trial_id)"
COLUMNS = "trial_id, body, checksum, segment, frame_offset, frame_bytes, body_offset, body_bytes"
HAS_ENDED = "(step IS NOT NULL OR state IN ('dropped', 'evaluated'))"
"""Of rows of `trials`: that were claimed for a batch, or are never trained."""
UPDATE = "CASE WHEN step IS NOT NULL THEN step WHEN purpose = 'evaluate' THEN slot ELSE oldest_version + 1 END"
"""The update by which such a row is counted: its batch's, the version that it measures, the first it could be in."""
_KEPT = "trial_id, group_id, slot, purpose, state, step, checkpoint, oldest_version, response_tokens, solved_at"
_LEVEL = 3
_FRAME_BYTES = 256 * 1024
_MOST_CONTENT = _FRAME_BYTES + MAX_MESSAGE_BYTES
_WAY_OUT = "put it back from a copy of the run"
_SUFFIX, _UNFINISHED = ".zst", ".tmp"


class Pruned(Missing):
    """A body that `lamer journal prune` deleted."""


@dataclass(frozen=True, slots=True)
class Place:
    """A body in a segment, in bytes. checksum: CRC-32 of the body.

    frame_offset, frame_bytes: of its frame in the segment's file. body_offset, body_bytes: of the body in what the
    frame holds.
    """

    trial_id: str
    checksum: int
    segment: str
    frame_offset: int
    frame_bytes: int
    body_offset: int
    body_bytes: int


class Bodies:
    """Loads the bodies of one journal. Keeps the frame that it read last: neighbours are cheap."""

    def __init__(self, journal: Path) -> None:
        """journal: its file."""
        self._journal = journal
        self._frame: tuple[str, int] = ("", 0)
        self._content = b""

    def load(self, row: Sequence[Any]) -> bytes:
        """The encoded trial of a row of `COLUMNS` from `SOURCE`.

        Raises:
            Pruned: it was deleted on purpose. Missing: its segment is gone. BadInput: its bytes are damaged.
        """
        trial_id, inline, _, segment, *_ = row
        if inline:
            return bytes(inline)
        if segment is None:
            raise BadInput(f"{self._journal} holds no body of {trial_id}")
        if segment == PRUNED:
            raise Pruned(f"the body of {trial_id} was deleted by `lamer journal prune`")
        return self.load_from(Place(trial_id, *row[2:]))

    def load_from(self, place: Place) -> bytes:
        """The body that lies in a segment.

        Raises:
            Missing: the segment is gone. BadInput: its bytes are not those that were written.
        """
        if self._frame != (place.segment, place.frame_offset):
            self._content = self._read(place)
            self._frame = (place.segment, place.frame_offset)
        body = self._content[place.body_offset : place.body_offset + place.body_bytes]
        if checksum_of(body) != place.checksum:
            raise self._damaged(place)
        return body

    def _read(self, place: Place) -> bytes:
        path = segments_folder(self._journal) / place.segment
        try:
            with path.open("rb") as file:
                file.seek(place.frame_offset)
                data = file.read(place.frame_bytes)
        except FileNotFoundError as error:
            raise Missing(
                f"segment {path}, which holds the body of {place.trial_id}, is missing: {_WAY_OUT}"
            ) from error
        try:
            if len(data) < place.frame_bytes or not 0 <= zstandard.frame_content_size(data) <= _MOST_CONTENT:
                raise self._damaged(place)
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self._damaged(place) from error

    def _damaged(self, place: Place) -> BadInput:
        path = segments_folder(self._journal) / place.segment
        at = f"the body of {place.trial_id}, in the frame at byte {place.frame_offset}"
        return BadInput(f"segment {path} is damaged at {at}: {_WAY_OUT}")


def segments_folder(journal: Path) -> Path:
    """Where the segments of a journal lie."""
    return journal.parent / SEGMENTS


def checksum_of(body: bytes) -> int:
    """CRC-32 of an encoded trial."""
    return zlib.crc32(body)


def write_segment(folder: Path, first: int, last: int, bodies: Iterable[tuple[str, bytes]]) -> tuple[Place, ...]:
    """Write a segment, durable when this returns. Only one process may do so in a folder.

    Args:
        folder: see `segments_folder`; created if need be.
        first: lowest update in it.
        last: highest update in it.
        bodies: trial_id and encoded trial, one after the other.

    Raises:
        OSError: it can't be written; nothing but a leftover that `sweep` removes is there then.
    """
    folder.mkdir(exist_ok=True)
    stem = f"{first:06d}-{last:06d}"
    name, number = f"{stem}{_SUFFIX}", 1
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}{_SUFFIX}"
    temporary = folder / f".{name}{_UNFINISHED}"
    places: list[Place] = []
    with temporary.open("wb") as file:
        for frame in _frames(bodies):
            places += _write_frame(file, name, frame)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / name)
    _sync(folder)
    _sync(folder.parent)
    return tuple(places)


def _frames(bodies: Iterable[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """What goes into one frame each: as many as come to `_FRAME_BYTES`."""
    frame: list[tuple[str, bytes]] = []
    size = 0
    for trial_id, body in bodies:
        frame.append((trial_id, body))
        size += len(body)
        if size >= _FRAME_BYTES:
            yield frame
            frame, size = [], 0
    if frame:
        yield frame


def _write_frame(file: BinaryIO, segment: str, frame: Sequence[tuple[str, bytes]]) -> Iterator[Place]:
    offset = file.tell()
    content = b"".join(body for _, body in frame)
    size = file.write(zstandard.ZstdCompressor(level=_LEVEL).compress(content))
    start = 0
    for trial_id, body in frame:
        yield Place(trial_id, checksum_of(body), segment, offset, size, start, len(body))
        start += len(body)


def let_go(connection: sqlite3.Connection, trial_id: str) -> None:
    """Empty a trial's body. Its row is deleted and inserted again: SQLite joins half empty pages when rows go, but not
    when they shrink.
    """
    row = connection.execute(f"SELECT rowid, {_KEPT} FROM trials WHERE trial_id = ?", (trial_id,)).fetchone()
    connection.execute("DELETE FROM trials WHERE trial_id = ?", (trial_id,))
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO trials(rowid, {_KEPT}, body) VALUES({marks}, X'')", row)


def known_segments(connection: sqlite3.Connection) -> frozenset[str]:
    """Names of the segments in which trials of a journal lie."""
    query = "SELECT DISTINCT segment FROM bodies WHERE segment != ?"
    return frozenset(row[0] for row in connection.execute(query, (PRUNED,)))


def sweep(folder: Path, referenced: frozenset[str]) -> tuple[Path, ...]:
    """Remove what killed processes left: unfinished segments, and those in which no trial is known to lie.

    Returns:
        the files removed.
    """
    if not folder.is_dir():
        return ()
    left = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix == _UNFINISHED or (path.suffix == _SUFFIX and path.name not in referenced)
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return tuple(left)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
