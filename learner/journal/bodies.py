"""Where a trial's body is: in its row of the journal, in a frame of a segment, or nowhere once it was pruned.

    <run>/journal.db          table trials: a body that is not empty is the body; table bodies: what is known of it
    <run>/segments/000001-000020.zst     bodies of updates 1 to 20, a zstd frame a trial, one after the other

A segment appears whole or not at all and never changes. Its name says what lies in it when it is written: training
trials by their update, those of a dropped group by the first update that they could have been in, evaluations by the
version that they measure. `zstd -d` reads it. Any frame is read without those before it.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from lamer.common.codec import MAX_MESSAGE_BYTES
from lamer.common.errors import BadInput, Missing

SEGMENTS = "segments"
PRUNED = ""
"""In the place of a segment's name: the body was deleted on purpose."""
TABLE = """
CREATE TABLE IF NOT EXISTS bodies(
    trial_id TEXT PRIMARY KEY, checksum INTEGER, segment TEXT, frame_offset INTEGER, frame_bytes INTEGER
) WITHOUT ROWID;
"""
"""Beside `trials`, whose columns end in the body: SQLite walks through all of a long body to a column behind it.

A journal that an earlier lamer wrote has no such table until it is opened for writing.
"""
INDEX = "CREATE INDEX IF NOT EXISTS bodies_of_segment ON bodies(segment);"
SOURCE = "trials LEFT JOIN bodies USING (trial_id)"
COLUMNS = "trial_id, body, checksum, segment, frame_offset, frame_bytes"
HAS_ENDED = "(step IS NOT NULL OR state IN ('dropped', 'evaluated'))"
"""Of rows of `trials`: that were claimed for a batch, or are never trained."""
UPDATE = "CASE WHEN step IS NOT NULL THEN step WHEN purpose = 'evaluate' THEN slot ELSE oldest_version + 1 END"
"""The update by which such a row is counted: its batch's, the version that it measures, the first it could be in."""
_LEVEL = 3
_SUFFIX, _UNFINISHED = ".zst", ".tmp"


class Pruned(Missing):
    """A body that `lamer journal prune` deleted."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A body in a segment. checksum: CRC-32 of the body. offset, size: in the segment's file, in bytes."""

    trial_id: str
    checksum: int
    segment: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Body:
    """A row of `COLUMNS` from `SOURCE`."""

    trial_id: str
    inline: bytes
    checksum: int | None
    segment: str | None
    offset: int | None
    size: int | None

    def load(self, journal: Path) -> bytes:
        """The encoded trial. journal: the file that the row is of.

        Raises:
            Pruned: it was deleted on purpose. Missing: its segment is gone. BadInput: its bytes are damaged.
        """
        if self.inline:
            return self.inline
        if self.segment == PRUNED:
            raise Pruned(f"the body of {self.trial_id} was deleted by `lamer journal prune`")
        if self.segment is None or self.checksum is None or self.offset is None or self.size is None:
            raise BadInput(f"{journal} holds no body of {self.trial_id}")
        frame = Frame(self.trial_id, self.checksum, self.segment, self.offset, self.size)
        return read_frame(segments_folder(journal), frame)


def segments_folder(journal: Path) -> Path:
    """Where the segments of a journal lie."""
    return journal.parent / SEGMENTS


def checksum_of(body: bytes) -> int:
    """CRC-32 of an encoded trial."""
    return zlib.crc32(body)


def write_segment(folder: Path, first: int, last: int, bodies: Iterable[tuple[str, bytes]]) -> tuple[Frame, ...]:
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
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    frames: list[Frame] = []
    with temporary.open("wb") as file:
        for trial_id, body in bodies:
            offset = file.tell()
            size = file.write(compressor.compress(body))
            frames.append(Frame(trial_id, checksum_of(body), name, offset, size))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / name)
    _sync(folder)
    _sync(folder.parent)
    return tuple(frames)


def read_frame(folder: Path, frame: Frame) -> bytes:
    """The body that a frame holds.

    Raises:
        Missing: its segment is not there. BadInput: its bytes are not those that were written.
    """
    path = folder / frame.segment
    way_out = "put it back from a copy of the run"
    try:
        with path.open("rb") as file:
            file.seek(frame.offset)
            data = file.read(frame.size)
    except FileNotFoundError as error:
        raise Missing(f"segment {path}, which holds the body of {frame.trial_id}, is missing: {way_out}") from error
    problem = f"segment {path} is damaged at the body of {frame.trial_id}, bytes {frame.offset} and on: {way_out}"
    try:
        if len(data) < frame.size or not 0 <= zstandard.frame_content_size(data) <= MAX_MESSAGE_BYTES:
            raise BadInput(problem)
        body = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadInput(problem) from error
    if checksum_of(body) != frame.checksum:
        raise BadInput(problem)
    return body


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
