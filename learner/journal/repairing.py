"""A damaged journal is made whole again: what is damaged goes into a folder beside it, the rest is kept.

    a file that SQLite can't read through   rows that can be read go into a new file, which takes its place
    a body that is damaged or missing       its row stays and says so, or, where it was yet to be trained, goes: its
                                            slot is played again
    a row that contradicts itself           goes
    no file at all, or nothing in it        an empty journal, whose groups are numbered on from those that there were

What was taken away lies in `<run>/damaged-1/` (the next call's in `damaged-2/`): `trials.jsonl` with a line for each,
its row and what was wrong, `bodies/` with the bytes that there were, and the damaged file. While a call is at work the
folder's name ends in `.unfinished`; one that was killed is completed by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.errors import RunFailed
from lamer.learner.journal.bodies import SET_ASIDE, SOURCE, Bodies, Gone, known_segments, mark_gone, segments_folder
from lamer.learner.journal.checking import Problem, body_problem, each_body, file_problems, state_problems
from lamer.learner.journal.writer import create_tables

_UNFINISHED = ".unfinished"
_TABLES = {
    "groups": "group_id, admitted_version, is_dropped",
    "trials": "trial_id, group_id, slot, purpose, state, step, checkpoint, oldest_version, response_tokens, solved_at, "
    "body",
    "drops": "group_id, trial_id, reason, outcome, response_tokens, trained_from",
}
_BODIES = "trial_id, checksum, segment, frame_offset, frame_bytes, body_offset, body_bytes"
_LINE = f"{_TABLES['trials'].removesuffix(', body')}, {_BODIES.removeprefix('trial_id, ')}"
_LEAST_ROW_BYTES = 16


@dataclass
class Repair:
    """What was done.

    folder: where what was taken away lies, None where nothing was. kept: trials in the journal now. salvaged: whether
    the file was made anew from the rows that could be read. lost: trials known to have been there whose rows could not.
    next_group: of a journal that had to be begun anew, the number of its first group, else None.
    """

    folder: Path | None = None
    kept: int = 0
    salvaged: bool = False
    lost: list[str] = field(default_factory=list)
    taken: list[Problem] = field(default_factory=list)
    next_group: int | None = None


def repair(path: Path, least_group: int) -> Repair:
    """Make the journal at `path` whole. The caller holds the run's lock.

    Args:
        least_group: where no row can be read, groups are numbered from here on at least.

    Raises:
        RunFailed: a file can't be written.
    """
    done = Repair()
    place = _place(path.parent)
    try:
        _make_readable(path, place, least_group, done)
        with closing(sqlite3.connect(path, isolation_level=None)) as journal:
            journal.execute("PRAGMA synchronous=FULL")
            create_tables(journal)
            _take_away(journal, path, place, done)
            (done.kept,) = journal.execute("SELECT COUNT(*) FROM trials").fetchone()
        if place.is_dir():
            done.folder = place.with_suffix("")
            place.rename(done.folder)
    except (OSError, sqlite3.DatabaseError) as error:
        raise RunFailed(f"{path} can't be repaired: {error}") from error
    return done


def _place(run: Path) -> Path:
    """Where to put what is damaged: the folder of a call that was killed, or the next one; it may not be there yet."""
    for unfinished in sorted(run.glob(f"damaged-*{_UNFINISHED}")):
        return unfinished
    number = 1
    while (run / f"damaged-{number}").exists():
        number += 1
    return run / f"damaged-{number}{_UNFINISHED}"


# --- the file ------------------------------------------------------------------------------------------------------


def _make_readable(path: Path, place: Path, least_group: int, done: Repair) -> None:
    """Replace a file that can't be read through, from a copy of it in `place`."""
    if path.is_file() and not file_problems(path):
        return
    copy = place / path.name
    if not copy.exists():  # else a call was killed: this is all that there was, `path` need not be any more
        place.mkdir(exist_ok=True)
        for suffix in ("-wal", ""):  # the file last: it says that both are there
            if path.with_name(path.name + suffix).is_file():
                _link(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    new = path.with_name(f".{path.name}.repaired")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new, isolation_level=None)) as journal:
        create_tables(journal)
        journal.execute("BEGIN")
        if copy.exists():
            _salvage(copy, journal, done)
        (count,) = journal.execute("SELECT COUNT(*) FROM trials").fetchone()
        if not count:
            _begin_anew(journal, path, place, least_group, done)
        journal.execute("COMMIT")
    done.salvaged = count > 0
    for suffix in ("-wal", "-shm"):  # of the old file, from which everything has been read
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


def _salvage(damaged: Path, journal: sqlite3.Connection, done: Repair) -> None:
    """Copy every row that can be read."""
    with closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)) as old:
        old.text_factory = lambda data: data.decode(errors="replace")
        for table, columns in _TABLES.items():
            marks = ", ".join("?" * len(columns.split(",")))
            for row in _readable(old, damaged, table, columns):
                journal.execute(f"INSERT OR IGNORE INTO {table} VALUES({marks})", row)
        for (trial_id,) in journal.execute("SELECT trial_id FROM trials").fetchall():
            with contextlib.suppress(sqlite3.DatabaseError):  # then the body counts as missing, unless it is in the row
                for row in old.execute(f"SELECT {_BODIES} FROM bodies WHERE trial_id = ?", (trial_id,)):
                    journal.execute(f"INSERT INTO bodies({_BODIES}) VALUES(?, ?, ?, ?, ?, ?, ?)", row)
        journal.executemany("INSERT INTO segments VALUES(?)", [(name,) for name in known_segments(journal)])
        _settle_groups(journal)
        done.lost = _lost(old, journal)


def _readable(old: sqlite3.Connection, path: Path, table: str, columns: str) -> Iterator[Sequence[object]]:
    """The rows of a table that can be read, stepping over row ids at which that fails."""
    last, highest = -1, _highest_row(old, path, table)
    query = f"SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid"
    while last <= highest:
        try:
            for row in old.execute(query, (last,)):
                last = row[0]
                yield row[1:]
            return
        except sqlite3.DatabaseError:
            last += 1


def _highest_row(old: sqlite3.Connection, path: Path, table: str) -> int:
    try:
        return int(old.execute(f"SELECT MAX(rowid) FROM {table}").fetchone()[0] or 0)
    except sqlite3.DatabaseError:
        return path.stat().st_size // _LEAST_ROW_BYTES


def _lost(old: sqlite3.Connection, journal: sqlite3.Connection) -> list[str]:
    """Trials of which there is nothing but the name, as far as that can be read."""
    known = {row[0] for row in journal.execute("SELECT trial_id FROM trials")}
    found = []
    with contextlib.suppress(sqlite3.DatabaseError):
        for (trial_id,) in old.execute("SELECT trial_id FROM bodies"):
            if trial_id not in known:
                found.append(str(trial_id))
    return found


def _settle_groups(journal: sqlite3.Connection) -> None:
    """Give every trial its group. One of which no trial is left may have been trained: it is not played again."""
    journal.execute(
        "INSERT OR IGNORE INTO groups SELECT group_id, MIN(oldest_version), MAX(state = 'dropped') FROM trials "
        "WHERE purpose = 'train' GROUP BY group_id"
    )
    journal.execute(
        "UPDATE groups SET is_dropped = 1 WHERE group_id NOT IN (SELECT group_id FROM trials WHERE purpose = 'train')"
    )


def _begin_anew(journal: sqlite3.Connection, path: Path, place: Path, least_group: int, done: Repair) -> None:
    """An empty journal. Segments, which it knows nothing of, go to `place`."""
    segments = segments_folder(path)
    if segments.is_dir():
        place.mkdir(exist_ok=True)
        segments.rename(place / segments.name)
    (known,) = journal.execute("SELECT MAX(group_id) FROM groups").fetchone()
    last = max(least_group - 1, known or 0)
    journal.execute("INSERT OR REPLACE INTO groups VALUES(?, 0, 1)", (last,))
    done.next_group = last + 1


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, target.with_name(target.name + ".copy"))
        target.with_name(target.name + ".copy").replace(target)


# --- the trials ----------------------------------------------------------------------------------------------------


def _take_away(journal: sqlite3.Connection, path: Path, place: Path, done: Repair) -> None:
    """Take away what is wrong with trials: first all of it is in `place`, then the journal lets it go."""
    rows = list(state_problems(journal))
    bodies = list(_damaged_bodies(journal, path))
    done.taken = [*rows, *bodies]
    if not done.taken:
        return
    (place / "bodies").mkdir(parents=True, exist_ok=True)
    with (place / "trials.jsonl").open("a", encoding="utf-8") as file:
        for problem in done.taken:
            file.write(json.dumps(_keep(journal, path, problem, place / "bodies")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    journal.execute("BEGIN IMMEDIATE")
    for problem in rows:
        _forget(journal, problem.trial_id)
    for problem in bodies:
        row = journal.execute("SELECT state FROM trials WHERE trial_id = ?", (problem.trial_id,)).fetchone()
        if row is None:
            continue
        if row[0] in ("stored", "evaluated"):
            _forget(journal, problem.trial_id)
        else:
            mark_gone(journal, problem.trial_id, SET_ASIDE)
    journal.execute("COMMIT")


def _damaged_bodies(journal: sqlite3.Connection, path: Path) -> Iterator[Problem]:
    loaded = Bodies(path)
    for row, facts in each_body(journal):
        try:
            problem = body_problem(loaded, row, facts)
        except Gone:
            continue
        if problem:
            yield Problem(str(row[0]), problem)


def _keep(journal: sqlite3.Connection, path: Path, problem: Problem, folder: Path) -> dict[str, object]:
    """Write the bytes that there are of a trial's body to `folder`; the line that says what became of the trial."""
    cursor = journal.execute(f"SELECT {_LINE} FROM {SOURCE} WHERE trial_id = ?", (problem.trial_id,))
    line = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    (body,) = journal.execute(
        "SELECT CAST(body AS BLOB) FROM trials WHERE trial_id = ?", (problem.trial_id,)
    ).fetchone()
    name, segment = "", segments_folder(path) / str(line["segment"])
    if body:
        name = f"{problem.trial_id.replace('/', '-')}.msgpack"
        (folder / name).write_bytes(body)
    elif line["segment"] and segment.is_file():
        name = f"{line['frame_offset']}-of-{segment.name}"
        with segment.open("rb") as file:
            file.seek(line["frame_offset"])
            (folder / name).write_bytes(file.read(line["frame_bytes"]))
    return {**line, "problem": problem.what, "bytes": name}


def _forget(journal: sqlite3.Connection, trial_id: str) -> None:
    journal.execute("DELETE FROM trials WHERE trial_id = ?", (trial_id,))
    journal.execute("DELETE FROM bodies WHERE trial_id = ?", (trial_id,))
