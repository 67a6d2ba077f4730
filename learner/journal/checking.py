"""Whether a journal is whole: what `lamer journal verify` finds, and `lamer journal repair` acts on.

The file as SQLite sees it; every trial's row, state and body, from wherever that lies; the updates as a whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.common.records import Trial
from lamer.learner.journal.bodies import COLUMNS, SOURCE, Bodies, Gone
from lamer.learner.journal.reader import opened

STATES = ("stored", "claimed", "trained", "dropped", "evaluated")
_FACTS = ("group_id", "slot", "purpose", "response_tokens", "solved_at")
_RULES = (
    ("is in no state that there is", f"state NOT IN {STATES}"),
    ("is stored, but claimed for an update", "state = 'stored' AND (step IS NOT NULL OR checkpoint IS NOT NULL)"),
    ("is claimed, but for no update", "state = 'claimed' AND (step IS NULL OR checkpoint IS NOT NULL)"),
    (
        "is trained, but in no update that a checkpoint covers",
        "state = 'trained' AND (step IS NULL OR checkpoint IS NULL OR checkpoint < step)",
    ),
    ("is dropped, but claimed for an update", "state = 'dropped' AND step IS NOT NULL"),
    ("is an evaluation's, but not evaluated", "(purpose = 'evaluate') != (state = 'evaluated')"),
    ("is of a group that there is not", "purpose = 'train' AND group_id NOT IN (SELECT group_id FROM groups)"),
)
"""What is wrong with the trials that a condition on `trials` finds."""
_INTEGRITY_LINES = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one trial."""

    trial_id: str
    what: str


@dataclass
class Verdict:
    """What a journal holds, and what is wrong with it.

    states: trials by state. in_segments, in_file, gone: bodies. unchecked: bodies without a checksum, stored by an
    earlier lamer. file: what SQLite says of the file. trials: what is wrong with trials. updates: what is wrong with
    batches.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    first_update: int = 0
    last_update: int = 0
    in_segments: int = 0
    in_file: int = 0
    gone: int = 0
    unchecked: int = 0
    file: tuple[str, ...] = ()
    trials: list[Problem] = field(default_factory=list)
    updates: list[str] = field(default_factory=list)

    @property
    def problems(self) -> tuple[str, ...]:
        """All of them, a line each."""
        return (*self.file, *(f"{one.trial_id} {one.what}" for one in self.trials), *self.updates)


def check(path: Path) -> Verdict:
    """Look at everything; for any process, while the gateway writes.

    Raises:
        Missing: there is no journal.
    """
    verdict = Verdict()
    verdict.file = file_problems(path)
    if verdict.file:
        return verdict
    with opened(path) as connection:
        connection.execute("BEGIN")
        rows = connection.execute("SELECT state, COUNT(*) FROM trials GROUP BY state")
        verdict.states = dict(rows.fetchall())
        _check_bodies(connection, path, verdict)
        verdict.trials += state_problems(connection)
        _check_updates(connection, verdict)
    return verdict


def file_problems(path: Path) -> tuple[str, ...]:
    """What SQLite finds wrong with the file, a line each.

    Raises:
        Missing: there is no such file.
    """
    if not path.is_file():
        raise Missing(f"there is no {path}")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(f"PRAGMA integrity_check({_INTEGRITY_LINES})").fetchall()
            connection.execute("SELECT COUNT(*) FROM trials")
    except sqlite3.DatabaseError as error:
        return (f"{path}: {error}",)
    return tuple(f"{path}: {line}" for (line,) in found if line != "ok")


def state_problems(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Trials whose rows contradict themselves."""
    for what, where in _RULES:
        for (trial_id,) in connection.execute(f"SELECT trial_id FROM trials WHERE {where}"):
            yield Problem(trial_id, what)


def body_problem(loaded: Bodies, row: tuple[object, ...], facts: tuple[object, ...]) -> str:
    """What is wrong with a trial's body, "" if nothing is.

    Args:
        loaded: loads bodies of this journal.
        row: of `COLUMNS`.
        facts: of `_FACTS`, from the same row.

    Raises:
        Gone: it was deleted or set aside.
    """
    try:
        trial = loaded.decode(row)
    except Gone:
        raise
    except (BadInput, Missing) as error:
        return f"can't be read: {error}"
    if (trial.trial_id, *facts_of(trial)) != (row[0], *facts):
        return f"is another trial than its row says: {trial.trial_id}, {facts_of(trial)} against {facts}"
    return ""


def facts_of(trial: Trial) -> tuple[object, ...]:
    """What a trial's row repeats of it, in the order of `_FACTS`."""
    return (trial.group_id, trial.slot, trial.purpose.value, trial.response_tokens, trial.solved_at)


def each_body(connection: sqlite3.Connection) -> Iterator[tuple[tuple[object, ...], tuple[object, ...]]]:
    """(row of `COLUMNS`, row of `_FACTS`) of every trial, segment by segment."""
    trial_ids = f"SELECT trial_id FROM {SOURCE} ORDER BY segment, frame_offset, body_offset"  # sorted without bodies
    query = f"SELECT {COLUMNS}, {', '.join(_FACTS)} FROM {SOURCE} WHERE trial_id = ?"
    for trial_id in connection.execute(trial_ids):
        for row in connection.execute(query, trial_id):
            yield row[: -len(_FACTS)], row[-len(_FACTS) :]


def _check_bodies(connection: sqlite3.Connection, path: Path, verdict: Verdict) -> None:
    loaded = Bodies(path)
    for row, facts in each_body(connection):
        try:
            problem = body_problem(loaded, row, facts)
        except Gone:
            verdict.gone += 1
            continue
        verdict.in_file += bool(row[1])
        verdict.in_segments += not row[1]
        verdict.unchecked += row[2] is None
        if problem:
            verdict.trials.append(Problem(str(row[0]), problem))


def _check_updates(connection: sqlite3.Connection, verdict: Verdict) -> None:
    """Every update has a batch, and no group is in two."""
    steps = [row[0] for row in connection.execute("SELECT DISTINCT step FROM trials WHERE step IS NOT NULL ORDER BY 1")]
    if steps:
        verdict.first_update, verdict.last_update = steps[0], steps[-1]
        missing = sorted(set(range(steps[0], steps[-1] + 1)) - set(steps))
        verdict.updates += [f"update {step} has no trials" for step in missing]
    query = (
        "SELECT group_id, MIN(step), MAX(step) FROM trials WHERE step IS NOT NULL "
        "GROUP BY group_id HAVING MIN(step) < MAX(step)"
    )
    for group, first, last in connection.execute(query):
        verdict.updates.append(f"group {group} is in the batches of update {first} and of update {last}")
