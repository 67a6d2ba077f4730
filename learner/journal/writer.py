"""The journal: every trial that was acknowledged, on disk (sqlite3, WAL, synchronous=FULL), and what became of it.

    stored -> claimed(step) -> trained(checkpoint)        a training trial's way
    evaluated, dropped                                    trials that are not trained

One thread owns the connection and takes whatever has queued up since its last commit into the next one (group
commit), so the more trials a second, the fewer syncs a trial. `on_stored` tells the event loop which trials are
durable; only then are they acknowledged. Operations take effect in the order in which they were submitted.

A batch is the set of trials claimed for its step. Bodies stay, so that every trained trial can be read and replayed:
here, until a durable checkpoint covers them, then in segments (`learner.journal.archiving`). `learner.journal.reader`
reads both from any process. Resuming at checkpoint k returns every later claim to stored.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from lamer.common.errors import BadInput, RunFailed, advice_for
from lamer.common.records import Purpose, Trial
from lamer.learner.journal import bodies
from lamer.learner.journal.bodies import Bodies, Place
from lamer.learner.journal.entries import Drop, DroppedCount, JournalState, RestoredGroup, TrialEntry

_SCHEMA = """
CREATE TABLE IF NOT EXISTS groups(
    group_id INTEGER PRIMARY KEY, admitted_version INTEGER NOT NULL, is_dropped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS trials(
    trial_id TEXT NOT NULL UNIQUE, group_id INTEGER NOT NULL, slot INTEGER NOT NULL, purpose TEXT NOT NULL,
    state TEXT NOT NULL, step INTEGER, checkpoint INTEGER, oldest_version INTEGER NOT NULL,
    response_tokens INTEGER NOT NULL, solved_at INTEGER, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS trials_of_group ON trials(purpose, group_id);
CREATE INDEX IF NOT EXISTS trials_of_step ON trials(step);
CREATE TABLE IF NOT EXISTS drops(
    group_id INTEGER NOT NULL, trial_id TEXT NOT NULL, reason TEXT NOT NULL, outcome TEXT NOT NULL,
    response_tokens INTEGER NOT NULL, trained_from INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS leases(trial_id TEXT PRIMARY KEY, holder TEXT NOT NULL) WITHOUT ROWID;
"""
_INSERT = "INSERT OR IGNORE INTO trials VALUES(?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?)"
_COLUMNS = "trial_id, group_id, slot, purpose, oldest_version, response_tokens, solved_at"
_INSERT_CHECKSUM = """
INSERT OR IGNORE INTO bodies(trial_id, checksum) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM trials WHERE trial_id = ?)
"""
_COMMIT_BYTES = 64 * 1024 * 1024


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of a journal that are not there yet."""
    connection.executescript(_SCHEMA + bodies.TABLE + bodies.REST)


@dataclass(frozen=True, slots=True)
class _Row:
    entry: TrialEntry
    body: bytes


@dataclass(frozen=True, slots=True)
class _Operation:
    """Statements to run inside a commit, and what to tell the event loop after it.

    run: returns plain values. A cursor must end in the writer's thread: it resets its statement as it goes, and in the
    event loop's thread that may hit the same statement at work (SQLITE_MISUSE).
    """

    run: Callable[[sqlite3.Connection], object]
    done: asyncio.Future[object]


class Journal:
    """A run's journal, opened for writing, for the event loop that made it; `close` ends its thread."""

    def __init__(
        self,
        path: Path,
        on_stored: Callable[[Sequence[TrialEntry]], None],
        on_failure: Callable[[RunFailed], None],
    ) -> None:
        """Open the journal at `path`, or make a new one.

        on_stored, on_failure: called in the event loop, after a commit with the trials that it made durable, and once
        when the journal can't be written.

        Raises:
            BadInput: the file is no journal.
        """
        self._loop = asyncio.get_running_loop()
        self._on_stored = on_stored
        self._on_failure = on_failure
        self._path = path
        self._queue: queue.SimpleQueue[_Row | _Operation | None] = queue.SimpleQueue()
        self._failure: RunFailed | None = None
        self.pending_bytes = 0
        self._drained = asyncio.Event()
        self._drained.set()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            create_tables(self._connection)
        except sqlite3.DatabaseError as error:
            way_out = f"`lamer journal repair {path.parent}` keeps what is whole"
            raise BadInput(f"{path} can't be used as a journal ({error}): {way_out}") from error
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def store(self, entry: TrialEntry, body: bytes) -> None:
        """Queue a trial; `on_stored` follows. A trial_id that is there already is left as it is."""
        self.pending_bytes += len(body)
        self._queue.put(_Row(entry, body))

    async def drained(self, limit: int) -> None:
        """Wait while more than `limit` bytes of bodies are queued.

        Raises:
            RunFailed: the journal can't be written.
        """
        while self.pending_bytes > limit:
            if self._failure is not None:
                raise self._failure
            self._drained.clear()
            await self._drained.wait()

    def admit(self, group_id: int, admitted_version: int) -> asyncio.Future[object]:
        """Note a new group."""
        return self._execute("INSERT OR IGNORE INTO groups VALUES(?, ?, 0)", [(group_id, admitted_version)])

    def lease(self, holders: Mapping[str, str]) -> asyncio.Future[object]:
        """Note whom trials were leased to, by trial id; in place of whom they were leased to before."""
        return self._execute("INSERT OR REPLACE INTO leases VALUES(?, ?)", list(holders.items()))

    async def holders(self) -> dict[str, str]:
        """Whom each trial was leased to last, by trial id."""
        rows = await self._submit(lambda connection: connection.execute("SELECT * FROM leases").fetchall())
        assert isinstance(rows, list)
        return dict(rows)

    def forget_holders(self) -> asyncio.Future[object]:
        """Nobody plays anything any more: the run ends."""
        return self._execute("DELETE FROM leases", [()])

    def drop(self, group_id: int, drops: Sequence[Drop]) -> asyncio.Future[object]:
        """Note that a group is given up, with one line for each of its trials that had been played."""

        def run(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE groups SET is_dropped = 1 WHERE group_id = ?", (group_id,))
            connection.execute(
                "UPDATE trials SET state = 'dropped' WHERE group_id = ? AND purpose = 'train'", (group_id,)
            )
            connection.executemany(
                "INSERT INTO drops VALUES(?, ?, ?, ?, ?, ?)",
                [(d.group_id, d.trial_id, d.reason, d.outcome, d.response_tokens, d.trained_from) for d in drops],
            )

        return self._submit(run)

    def claim(self, step: int, trial_ids: Sequence[str]) -> asyncio.Future[object]:
        """Claim trials for the batch of update `step`."""
        return self._execute(
            "UPDATE trials SET state = 'claimed', step = ? WHERE trial_id = ?", [(step, trial) for trial in trial_ids]
        )

    def mark_trained(self, step: int) -> asyncio.Future[object]:
        """Note that a durable checkpoint covers every claim up to and including `step`."""
        return self._execute(
            "UPDATE trials SET state = 'trained', checkpoint = ? WHERE state = 'claimed' AND step <= ?", [(step, step)]
        )

    def begin_segment(self, name: str) -> asyncio.Future[object]:
        """Note that a segment of this name is about to be written."""
        return self._execute("INSERT OR IGNORE INTO segments VALUES(?)", [(name,)])

    def move(self, places: Sequence[Place]) -> asyncio.Future[object]:
        """Let the bodies go that lie at `places`, on disk. One that is not the body there stays."""
        return self._submit(lambda connection: _move(connection, places))

    async def resume(self, step: int) -> JournalState:
        """Return every claim after update `step` to stored, and read what the run begins again from.

        A restored group's admitted version is that of its oldest token, and never above `step`.
        """
        state = await self._submit(lambda connection: _resume(connection, step))
        assert isinstance(state, JournalState)
        return state

    async def claimed(self, step: int) -> tuple[str, ...]:
        """The sorted trial_ids of the batch of update `step`, empty if it was not cut."""
        query = "SELECT trial_id FROM trials WHERE step = ? ORDER BY trial_id"
        rows = await self._submit(lambda connection: connection.execute(query, (step,)).fetchall())
        assert isinstance(rows, list)
        return tuple(row[0] for row in rows)

    async def evaluated(self, policy_version: int) -> tuple[Trial, ...]:
        """The evaluation trials of a policy version, sorted by trial_id; those whose bodies are gone are forgotten.

        Raises:
            BadInput: a body is damaged. Missing: a segment is not there.
        """
        query = (
            f"SELECT {bodies.COLUMNS} FROM {bodies.SOURCE} WHERE purpose = 'evaluate' AND slot = ? ORDER BY trial_id"
        )

        def run(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
            _forget_gone(connection, "purpose = 'evaluate' AND slot = ?", policy_version)
            return connection.execute(query, (policy_version,)).fetchall()

        rows = await self._submit(run)
        assert isinstance(rows, list)
        loaded = Bodies(self._path)
        return tuple([await asyncio.to_thread(loaded.decode, row) for row in rows])

    async def close(self) -> None:
        """Commit what is queued and close the file. Harmless when called again."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> asyncio.Future[object]:
        def run(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, rows)

        return self._submit(run)

    def _submit(self, run: Callable[[sqlite3.Connection], object]) -> asyncio.Future[object]:
        done: asyncio.Future[object] = self._loop.create_future()
        if self._failure is not None:
            _fail(done, self._failure)
        else:
            self._queue.put(_Operation(run, done))
        return done

    # --- the writer's thread -----------------------------------------------------------------------------------

    def _write(self) -> None:
        is_open = True
        while is_open:
            items, is_open = self._take()
            try:
                outcomes = self._commit(items)
            except Exception as error:  # whatever it is: nothing would be written from now on, so the run must end
                failure = RunFailed(f"the journal {self._path} can't be written: {_described(error, self._path)}")
                self._loop.call_soon_threadsafe(self._tell_failure, items, failure)
                break
            if items:
                self._loop.call_soon_threadsafe(self._tell, items, outcomes)
        self._connection.close()

    def _take(self) -> tuple[list[_Row | _Operation], bool]:
        """Wait for one item and take all that are queued with it, up to `_COMMIT_BYTES`; False after the last."""
        items: list[_Row | _Operation] = []
        size = 0
        item = self._queue.get()
        while item is not None:
            items.append(item)
            size += len(item.body) if isinstance(item, _Row) else 0
            if size > _COMMIT_BYTES or self._queue.empty():
                return items, True
            item = self._queue.get()
        return items, False

    def _commit(self, items: Sequence[_Row | _Operation]) -> list[object]:
        """Run all in one transaction, rows between two operations with one statement; the operations' results."""
        outcomes: list[object] = []
        rows: list[_Row] = []
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for item in items:
                if isinstance(item, _Row):
                    rows.append(item)
                    continue
                self._insert(rows)
                rows.clear()
                outcomes.append(item.run(self._connection))
            self._insert(rows)
        except BaseException:
            if self._connection.in_transaction:  # SQLite has rolled back by itself when the disk is full
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return outcomes

    def _insert(self, rows: Sequence[_Row]) -> None:
        checksums = [(row.entry.trial_id, bodies.checksum_of(row.body), row.entry.trial_id) for row in rows]
        self._connection.executemany(_INSERT_CHECKSUM, checksums)
        self._connection.executemany(_INSERT, [_values(row) for row in rows])

    # --- in the event loop, after a commit ---------------------------------------------------------------------

    def _tell(self, items: Sequence[_Row | _Operation], outcomes: Sequence[object]) -> None:
        rows = [item for item in items if isinstance(item, _Row)]
        self.pending_bytes -= sum(len(row.body) for row in rows)
        self._drained.set()
        if rows:
            self._on_stored([row.entry for row in rows])
        operations = (item for item in items if isinstance(item, _Operation))
        for operation, outcome in zip(operations, outcomes, strict=True):
            if not operation.done.done():
                operation.done.set_result(outcome)

    def _tell_failure(self, items: Sequence[_Row | _Operation], failure: RunFailed) -> None:
        """Whoever waits for the journal, or asks it for something from now on, gets the failure."""
        self._failure = failure
        self._drained.set()
        left: list[_Row | _Operation | None] = [*items]
        while not self._queue.empty():
            left.append(self._queue.get())
        for item in left:
            if isinstance(item, _Operation):
                _fail(item.done, failure)
        self._on_failure(failure)


def _fail(done: asyncio.Future[object], failure: RunFailed) -> None:
    if not done.done():
        done.set_exception(failure)
        done.exception()  # seen: nobody has to wait for it


def _described(error: Exception, path: Path) -> str:
    """What happened, and what to do about it."""
    if isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error):
        return f"{error}: `lamer journal repair {path.parent}` keeps what is whole"
    said = str(error) if isinstance(error, (sqlite3.Error, OSError)) else f"{type(error).__name__}: {error}"
    return f"{said}{advice_for(error)}"


def _values(row: _Row) -> tuple[object, ...]:
    entry = row.entry
    state = "stored" if entry.purpose is Purpose.TRAIN else "evaluated"
    return (
        entry.trial_id,
        entry.group_id,
        entry.slot,
        entry.purpose.value,
        state,
        entry.oldest_version,
        entry.response_tokens,
        entry.solved_at,
        row.body,
    )


def _move(connection: sqlite3.Connection, places: Sequence[Place]) -> None:
    for place in places:
        row = connection.execute("SELECT body FROM trials WHERE trial_id = ?", (place.trial_id,)).fetchone()
        if row is not None and bodies.checksum_of(row[0]) == place.checksum:
            connection.execute("INSERT OR REPLACE INTO bodies VALUES(?, ?, ?, ?, ?, ?, ?)", astuple(place))
            bodies.let_go(connection, place.trial_id)


def _forget_gone(connection: sqlite3.Connection, where: str, value: int) -> None:
    """Delete the trials that `where` names and whose bodies are gone, so that they are played again."""
    gone = f"{where} AND trial_id IN (SELECT trial_id FROM bodies WHERE segment IN (?, ?))"
    values = (value, bodies.PRUNED, bodies.SET_ASIDE)
    trial_ids = connection.execute(f"SELECT trial_id FROM trials WHERE {gone}", values).fetchall()
    connection.executemany("DELETE FROM trials WHERE trial_id = ?", trial_ids)
    connection.executemany("DELETE FROM bodies WHERE trial_id = ?", trial_ids)


def _resume(connection: sqlite3.Connection, step: int) -> JournalState:
    _forget_gone(connection, "step > ?", step)
    connection.execute("UPDATE trials SET state = 'stored', step = NULL, checkpoint = NULL WHERE step > ?", (step,))
    later = "purpose = 'evaluate' AND slot > ?"
    connection.execute(f"DELETE FROM bodies WHERE trial_id IN (SELECT trial_id FROM trials WHERE {later})", (step,))
    connection.execute(f"DELETE FROM trials WHERE {later}", (step,))
    trained = frozenset(
        row[0] for row in connection.execute("SELECT DISTINCT group_id FROM trials WHERE step IS NOT NULL")
    )
    stored: dict[int, list[TrialEntry]] = {}
    for row in connection.execute(f"SELECT {_COLUMNS} FROM trials WHERE state = 'stored' AND purpose = 'train'"):
        stored.setdefault(row[1], []).append(TrialEntry(row[0], row[1], row[2], Purpose(row[3]), *row[4:]))
    groups = []
    for group_id, admitted in connection.execute("SELECT group_id, admitted_version FROM groups WHERE is_dropped = 0"):
        if group_id not in trained:
            entries = tuple(stored.get(group_id, ()))
            oldest = min((entry.oldest_version for entry in entries), default=admitted)
            groups.append(RestoredGroup(group_id, min(oldest, step), entries))
    (last,) = connection.execute("SELECT MAX(group_id) FROM groups").fetchone()
    played, tokens = connection.execute(
        "SELECT COUNT(*), TOTAL(response_tokens) FROM trials WHERE purpose = 'train'"
    ).fetchone()
    drops = connection.execute(
        "SELECT reason, COUNT(DISTINCT group_id), COUNT(*), SUM(outcome = 'solved') FROM drops GROUP BY reason"
    )
    next_group_id = 0 if last is None else last + 1
    counts = tuple(DroppedCount(*row) for row in drops)
    return JournalState(tuple(groups), trained, next_group_id, played, int(tokens), counts)
