"""Bodies of old trials are deleted, for good. Their rows stay: which trials there were, and what became of them.

First the rows let their bodies go, a bounded number a commit, then the segments in which no body is left are removed,
then the file gives back its free pages. A call that was killed in between is completed by the next.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import RunFailed
from lamer.learner.journal.bodies import (
    HAS_ENDED,
    PRUNED,
    REST,
    SET_ASIDE,
    SOURCE,
    TABLE,
    UPDATE,
    mark_gone,
    segments_folder,
    sweep,
)
from lamer.learner.journal.reader import opened

_TRIALS_A_COMMIT = 256
_HAS_BODY = "(length(body) > 0 OR segment NOT IN (?, ?))"
_OLD = f"{HAS_ENDED} AND {UPDATE} <= ?"


@dataclass(frozen=True, slots=True)
class Prunable:
    """What `prune` deletes: bodies of trials up to update `last`. segments: those that go, others keep a part.

    journal_bytes: of bodies in the journal's file. segment_bytes: of the segments that go.
    """

    last: int
    trials: int
    journal_bytes: int
    segments: tuple[str, ...]
    segment_bytes: int


def last_trained(path: Path) -> int:
    """The last update that a durable checkpoint covers, 0 before the first.

    Raises:
        Missing: there is no journal.
    """
    with opened(path) as connection:
        (last,) = connection.execute("SELECT MAX(step) FROM trials WHERE state = 'trained'").fetchone()
    return int(last or 0)


def prunable(path: Path, last: int) -> Prunable:
    """What pruning up to update `last` would delete.

    Raises:
        Missing: there is no journal.
    """
    with opened(path) as connection:
        (inline, journal_bytes) = connection.execute(
            f"SELECT COUNT(*), TOTAL(length(body)) FROM trials WHERE length(body) > 0 AND {_OLD}", (last,)
        ).fetchone()
        query = (
            f"SELECT segment, COUNT(*), MIN({_OLD}), SUM({_OLD}) FROM trials JOIN bodies USING (trial_id) "
            "WHERE segment NOT IN (?, ?) GROUP BY segment ORDER BY segment"
        )
        found = connection.execute(query, (last, last, PRUNED, SET_ASIDE)).fetchall()
    gone = tuple(str(row[0]) for row in found if row[2])
    paths = (segments_folder(path) / name for name in gone)
    size = sum(each.stat().st_size for each in paths if each.is_file())
    return Prunable(last, inline + sum(row[3] for row in found), int(journal_bytes), gone, size)


def prune(path: Path, last: int) -> None:
    """Delete the bodies of trials up to update `last`. The caller holds the run's lock.

    Raises:
        RunFailed: the journal can't be written.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as writer:
            writer.execute("PRAGMA synchronous=FULL")
            writer.executescript(TABLE + REST)
            reached: int | None = -1
            while reached is not None:
                reached = _let_go(writer, last, reached)
            sweep(writer, segments_folder(path))
            writer.execute("VACUUM")
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError as error:
        raise RunFailed(f"{path} can't be pruned any further: {error}") from error


def _let_go(writer: sqlite3.Connection, last: int, after: int) -> int | None:
    """Prune the next trials in one commit, those of row ids above `after`; the last row id, None if there were none."""
    query = (
        f"SELECT trials.rowid, trial_id FROM {SOURCE} "
        f"WHERE trials.rowid > ? AND {_HAS_BODY} AND {_OLD} ORDER BY trials.rowid LIMIT ?"
    )
    rows = writer.execute(query, (after, PRUNED, SET_ASIDE, last, _TRIALS_A_COMMIT)).fetchall()
    writer.execute("BEGIN IMMEDIATE")
    for _, trial_id in rows:
        mark_gone(writer, trial_id, PRUNED)
    writer.execute("COMMIT")
    return rows[-1][0] if rows else None
