"""What `lamer journal verify` finds in a journal, and what reading refuses."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lamer.common.errors import BadInput
from lamer.learner.journal.checking import check
from lamer.learner.journal.pruning import prune
from lamer.learner.journal.reader import JournalReader, read_batch
from tests.learner.journal.parts import archive, opened, play, store, trial

EARLIER = Path(__file__).parents[2] / "data" / "run-of-ddffd24" / "runs" / "before"


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, values)
        connection.commit()


def flip_logprob(path: Path, trial_id: str) -> None:
    """Change one bit of a logprob: the body stays a valid trial, of other numbers."""
    with closing(sqlite3.connect(path)) as connection:
        (body,) = connection.execute("SELECT body FROM trials WHERE trial_id = ?", (trial_id,)).fetchone()
    logprob = body.index(b"\x00\x00\x00\xbf")  # -0.5
    change(
        path,
        "UPDATE trials SET body = ? WHERE trial_id = ?",
        body[:logprob] + b"\x01" + body[logprob + 1 :],
        trial_id,
    )


async def test_a_flipped_bit_of_a_logprob_is_refused_by_name_wherever_the_body_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    flip_logprob(path, "r/train/2/1")
    refused = r"the body of r/train/2/1 in .*journal\.db is damaged.*lamer journal repair"
    with pytest.raises(BadInput, match=refused):
        read_batch(path, 2)
    with pytest.raises(BadInput, match=refused):
        JournalReader(path).trial("r/train/2/1")
    await archive(path, 3)  # which must not give it a checksum that fits
    with pytest.raises(BadInput, match=refused):
        read_batch(path, 2)
    assert len(read_batch(path, 1)) == len(read_batch(path, 3)) == 2
    (problem,) = check(path).trials
    assert problem.trial_id == "r/train/2/1"


async def test_a_trial_that_arrives_twice_keeps_the_checksum_of_the_body_that_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opened(path) as (journal, _):
        await store(journal, trial(0, version=1), trial(0, version=2))
        await store(journal, trial(0, version=3))
        await journal.claim(1, ["r/train/0/0"])
    assert [one.oldest_version for one in read_batch(path, 1)] == [1]


async def test_a_whole_journal_is_found_whole_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await play(path, updates=5)
    await archive(path, 2)
    await archive(path, 4)
    prune(path, 2)
    found = check(path)
    assert found.problems == ()
    assert found.states == {"stored": 1, "claimed": 2, "trained": 8, "dropped": 1, "evaluated": 2}
    assert (found.first_update, found.last_update) == (1, 5)
    assert (found.in_segments, found.in_file, found.gone, found.unchecked) == (4, 4, 6, 0)


def test_a_journal_of_an_earlier_version_holds_no_checksums_and_is_whole(tmp_path: Path) -> None:
    run = shutil.copytree(EARLIER, tmp_path / "before")
    found = check(run / "journal.db")
    assert found.problems == ()
    assert found.unchecked == found.in_file == sum(found.states.values()) > 0


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("UPDATE trials SET state = 'stored' WHERE trial_id = 'r/train/1/0'", "r/train/1/0 is stored, but claimed"),
        ("UPDATE trials SET step = NULL WHERE trial_id = 'r/train/1/0'", "r/train/1/0 is claimed, but for no update"),
        ("UPDATE trials SET state = 'lost' WHERE trial_id = 'r/train/1/0'", "r/train/1/0 is in no state"),
        ("UPDATE trials SET slot = 7 WHERE trial_id = 'r/train/1/0'", "r/train/1/0 is another trial than its row says"),
        ("UPDATE trials SET step = 4 WHERE step = 2", "update 2 has no trials"),
        ("UPDATE trials SET step = 3 WHERE trial_id = 'r/train/1/0'", "group 1 is in the batches of update 1 and of"),
        ("DELETE FROM groups WHERE group_id = 1", "r/train/1/0 is of a group that there is not"),
    ],
)
async def test_what_contradicts_itself_is_found(tmp_path: Path, harm: str, said: str) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    change(path, harm)
    assert any(problem.startswith(said) for problem in check(path).problems), check(path).problems


async def test_a_file_that_sqlite_cannot_read_through_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await play(path, updates=50)
    data = bytearray(path.read_bytes())
    data[8192:12288] = b"\xff" * 4096
    path.write_bytes(data)
    assert check(path).file
