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

from lamer.common.codec import MAX_MESSAGE_BYTES, CodecError, decode_trial
from lamer.common.errors import BadInput, Missing
from lamer.common.records import Trial

SEGMENTS = "segments"
PRUNED = ""
"""In the place of a segment's name: the body was deleted on purpose."""
SET_ASIDE = "!"
"""In the place of a segment's name: the body was damaged, and `lamer journal repair` took what there was of it away."""
TABLE = """
CREATE TABLE IF NOT EXISTS bodies(
    trial_id TEXT PRIMARY KEY, checksum INTEGER, segment TEXT, frame_offset INTEGER, frame_bytes INTEGER,
    body_offset INTEGER, body_bytes INTEGER
) WITHOUT ROWID;
"""
"""Beside `trials`, whose columns end in the body: SQLite walks through all of a long body to a column behind it.

A journal that an earlier lamer wrote has no such table until it is opened for writing.
"""
REST = """
CREATE INDEX IF NOT EXISTS bodies_of_segment ON bodies(segment);
CREATE TABLE IF NOT EXISTS segments(name TEXT PRIMARY KEY) WITHOUT ROWID;
"""
"""`segments`: every segment that this journal began. Others are not ours to remove: a journal that was put back from an
older copy knows nothing of the later ones.
"""
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
_SUFFIX, _UNFINISHED = ".zst", ".tmp"


class Gone(Missing):
    """A body that `lamer journal prune` deleted or `lamer journal repair` took away. state: which of them."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


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
        self._way_out = f"`lamer journal repair {journal.parent}` sets aside what is damaged"

    def load(self, row: Sequence[Any]) -> bytes:
        """The encoded trial of a row of `COLUMNS` from `SOURCE`.

        Raises:
            Gone: it was deleted or set aside. Missing: its segment is gone. BadInput: its bytes are damaged.
        """
        trial_id, inline, checksum, segment, *_ = row
        if inline:
            if checksum is not None and checksum_of(inline) != checksum:
                problem = "its checksum is not the one that it was stored with"
                raise BadInput(f"the body of {trial_id} in {self._journal} is damaged ({problem}): {self._way_out}")
            return bytes(inline)
        if segment is None:
            raise BadInput(f"{self._journal} holds no body of {trial_id}: {self._way_out}")
        if segment == PRUNED:
            raise Gone(f"the body of {trial_id} was deleted by `lamer journal prune`", "pruned")
        if segment == SET_ASIDE:
            raise Gone(f"the body of {trial_id} was damaged and set aside by `lamer journal repair`", "set aside")
        return self.load_from(Place(trial_id, *row[2:]))

    def decode(self, row: Sequence[Any]) -> Trial:
        """The trial of a row of `COLUMNS` from `SOURCE`; raises as `load` does."""
        try:
            return decode_trial(self.load(row))
        except CodecError as error:
            raise BadInput(f"the body of {row[0]} in {self._journal} is damaged ({error}): {self._way_out}") from error

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
        way_out = f"put it back from a copy of the run; without one, {self._way_out}"
        try:
            with path.open("rb") as file:
                file.seek(place.frame_offset)
                data = file.read(place.frame_bytes)
        except FileNotFoundError as error:
            raise Missing(f"segment {path}, which holds the body of {place.trial_id}, is missing: {way_out}") from error
        try:
            if len(data) < place.frame_bytes or not 0 <= zstandard.frame_content_size(data) <= _MOST_CONTENT:
                raise self._damaged(place)
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self._damaged(place) from error

    def _damaged(self, place: Place) -> BadInput:
        path = segments_folder(self._journal) / place.segment
        at = f"the body of {place.trial_id}, in the frame at byte {place.frame_offset}"
        return BadInput(f"segment {path} is damaged at {at}: {self._way_out}")


def segments_folder(journal: Path) -> Path:
    """Where the segments of a journal lie."""
    return journal.parent / SEGMENTS


def checksum_of(body: bytes) -> int:
    """CRC-32 of an encoded trial."""
    return zlib.crc32(body)


def free_name(folder: Path, first: int, last: int) -> str:
    """A name for a segment of updates `first` to `last` that no file in `folder` has."""
    stem = f"{first:06d}-{last:06d}"
    name, number = f"{stem}{_SUFFIX}", 1
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}{_SUFFIX}"
    return name


def write_segment(folder: Path, name: str, bodies: Iterable[tuple[str, bytes]]) -> tuple[Place, ...]:
    """Write a segment, durable when this returns. Only one process may do so in a folder.

    Args:
        folder: see `segments_folder`; created if need be.
        name: see `free_name`; the journal's table `segments` has it already.
        bodies: trial_id and encoded trial, one after the other.

    Raises:
        OSError: it can't be written; nothing but a leftover that `sweep` removes is there then.
    """
    folder.mkdir(exist_ok=True)
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


def mark_gone(connection: sqlite3.Connection, trial_id: str, mark: str) -> None:
    """Note that a trial's body is nowhere any more, and empty it. mark: `PRUNED` or `SET_ASIDE`."""
    connection.execute("INSERT OR IGNORE INTO bodies(trial_id) VALUES(?)", (trial_id,))
    connection.execute(
        "UPDATE bodies SET segment = ?, frame_offset = NULL, frame_bytes = NULL, body_offset = NULL, body_bytes = NULL "
        "WHERE trial_id = ?",
        (mark, trial_id),
    )
    let_go(connection, trial_id)


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
    query = "SELECT DISTINCT segment FROM bodies WHERE segment NOT IN (?, ?)"
    return frozenset(row[0] for row in connection.execute(query, (PRUNED, SET_ASIDE)))


def sweep(connection: sqlite3.Connection, folder: Path) -> tuple[Path, ...]:
    """Remove what is left over: unfinished segments, and those of this journal in which no trial lies.

    Args:
        connection: to the journal, with all tables.
        folder: see `segments_folder`.

    Returns:
        the files removed.
    """
    if not folder.is_dir():
        return ()
    begun = {row[0] for row in connection.execute("SELECT name FROM segments")} - known_segments(connection)
    left = [path for path in sorted(folder.iterdir()) if path.suffix == _UNFINISHED or path.name in begun]
    for path in left:
        path.unlink(missing_ok=True)
    return tuple(left)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
