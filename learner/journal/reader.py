"""Reading a run's journal from any process while the gateway writes: batches, single trials, which trials there are.

Bodies that have moved to segments are read like those in the journal (`learner.journal.bodies`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import Missing
from lamer.common.records import Trial
from lamer.learner.journal import bodies
from lamer.learner.journal.bodies import Bodies, Gone

_COLUMNS = "trial_id, state, step, oldest_version, response_tokens, solved_at"


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial without its body.

    state: stored, claimed, trained, dropped or evaluated. step: the update it was claimed for. solved_at: index of the
    solved episode.
    """

    trial_id: str
    state: str
    step: int | None
    oldest_version: int
    response_tokens: int
    solved_at: int | None

    @property
    def age(self) -> int | None:
        """Policy versions between the one trained from and that of its oldest token; None when it was not trained."""
        return None if self.step is None else self.step - 1 - self.oldest_version


@dataclass(frozen=True, slots=True)
class TokenFates:
    """Response tokens of training trials: of those in batches, and of those that were played and dropped."""

    trained: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TrialFilter:
    """Which trials: of update `step` only, solved or unsolved only, at most `limit` of them."""

    step: int | None = None
    is_solved: bool | None = None
    limit: int = 20


class JournalReader:
    """A journal, opened read-only for each question."""

    def __init__(self, path: Path) -> None:
        """Remember where it is.

        Raises:
            Missing: there is no journal.
        """
        if not path.is_file():
            way_out = f"`lamer journal repair {path.parent}` begins a new one"
            raise Missing(f"no journal at {path}: the run has not begun, or it is gone: {way_out}")
        self._path = path

    def count(self, wanted: TrialFilter) -> int:
        """How many trials a filter lets through, its limit aside."""
        where, values = _where(wanted)
        with opened(self._path) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM trials{where}", values).fetchone()[0])

    def rows(self, wanted: TrialFilter) -> tuple[TrialRow, ...]:
        """Trials that a filter lets through, the latest updates first, in the order of their ids within one."""
        where, values = _where(wanted)
        query = f"SELECT {_COLUMNS} FROM trials{where} ORDER BY step IS NULL, step DESC, group_id, slot LIMIT ?"
        with opened(self._path) as connection:
            return tuple(TrialRow(*row) for row in connection.execute(query, (*values, wanted.limit)))

    def trial(self, trial_id: str) -> tuple[TrialRow, Trial]:
        """One trial in full. An id's end is enough where it is the only one: "train/3/0".

        Raises:
            Missing: there is no such trial, or its body is not there any more. BadInput: its body is damaged.
        """
        with opened(self._path) as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM trials WHERE trial_id = ? OR substr(trial_id, -length(?)) = ? LIMIT 2",
                (trial_id, f"/{trial_id}", f"/{trial_id}"),
            ).fetchall()
        if len(found) != 1:
            problem = "no trial" if not found else "more than one trial"
            raise Missing(f"{self._path} holds {problem} {trial_id}: `lamer inspect` without an id lists them")
        row = TrialRow(*found[0])
        return row, self._trial(row.trial_id, Bodies(self._path))

    def trials(self, rows: Sequence[TrialRow]) -> tuple[Trial | None, ...]:
        """The trials of these rows; None in the place of one whose body is gone.

        Raises:
            Missing: a segment is not there. BadInput: a body is damaged.
        """
        found: list[Trial | None] = []
        loaded = Bodies(self._path)
        for row in rows:
            try:
                found.append(self._trial(row.trial_id, loaded))
            except Gone:
                found.append(None)
        return tuple(found)

    def token_fates(self, step: int) -> TokenFates:
        """What has become of response tokens, given the batches of the updates up to `step`."""
        query = "SELECT COALESCE(SUM(response_tokens), 0) FROM trials WHERE"
        with opened(self._path) as connection:
            trained = connection.execute(f"{query} step <= ?", (step,)).fetchone()[0]
            dropped = connection.execute(f"{query} state = 'dropped'").fetchone()[0]
        return TokenFates(int(trained), int(dropped))

    def _trial(self, trial_id: str, loaded: Bodies) -> Trial:
        query = f"SELECT {bodies.COLUMNS} FROM {bodies.SOURCE} WHERE trial_id = ?"
        with opened(self._path) as connection:
            row = connection.execute(query, (trial_id,)).fetchone()
        return loaded.decode(row)


def read_batch(path: Path, step: int) -> tuple[Trial, ...]:
    """The trials of the batch of update `step`, sorted by trial_id; for any process, while the gateway writes.

    Raises:
        Missing: there is no journal at `path`, no batch of that step in it, or a body is not there any more.
        BadInput: a body is damaged.
    """
    query = f"SELECT {bodies.COLUMNS} FROM {bodies.SOURCE} WHERE step = ? ORDER BY trial_id"
    with opened(path) as connection:
        loaded = Bodies(path)
        trials = tuple(loaded.decode(row) for row in connection.execute(query, (step,)))
    if not trials:
        raise Missing(f"the journal {path} holds no batch of update {step}")
    return trials


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write to the file. Of a journal without the table `bodies` that table is empty.

    Raises:
        Missing: there is no such file, or it is no journal.
    """
    address = path.absolute().as_uri()  # which writes %, ? and # of the path as %25, %3F and %23
    try:
        connection = sqlite3.connect(f"{address}?mode=ro", uri=True)
    except sqlite3.OperationalError as error:
        way_out = f"if it is gone, `lamer journal repair {path.parent}` begins a new one"
        raise Missing(f"the journal {path} can't be opened ({error}): {way_out}") from error
    try:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'bodies'").fetchone() is None:
            connection.execute(bodies.TABLE.replace("CREATE TABLE", "CREATE TEMP TABLE"))
        yield connection
    except sqlite3.DatabaseError as error:
        way_out = f"`lamer journal repair {path.parent}` keeps what is whole"
        raise Missing(f"{path} is no journal, or a damaged one ({error}): {way_out}") from error
    finally:
        connection.close()


def _where(wanted: TrialFilter) -> tuple[str, tuple[int, ...]]:
    """A WHERE clause and its values; every part of it is written here."""
    parts: list[str] = []
    values: list[int] = []
    if wanted.step is not None:
        parts.append("step = ?")
        values.append(wanted.step)
    if wanted.is_solved is not None:
        parts.append(f"solved_at IS {'NOT ' if wanted.is_solved else ''}NULL")
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), tuple(values)
