"""Bodies that a durable checkpoint covers move into segments, whole, and are read as before."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lamer.common.codec import encode_trial
from lamer.common.errors import BadInput, Missing
from lamer.common.records import Purpose
from lamer.learner.journal import archiving, bodies
from lamer.learner.journal.reader import read_batch
from tests.learner.journal.killing import killed_copies
from tests.learner.journal.parts import archive, archive_with, opened, play, read_all, store, trial

EARLIER = Path(__file__).parents[2] / "data" / "run-of-ddffd24" / "runs" / "before"


def inline(path: Path) -> set[str]:
    """The trials whose bodies are in the journal's file."""
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT trial_id FROM trials WHERE length(body) > 0")}


def segments(path: Path) -> list[str]:
    return sorted(file.name for file in path.with_name("segments").glob("*"))


async def test_what_a_checkpoint_covers_moves_and_everything_reads_as_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path)
    await archive(path, 2)
    assert inline(path) == {"r/train/3/0", "r/train/3/1", "r/train/4/0", "r/evaluate/0/3"}, (
        "later, stored, later version"
    )
    assert segments(path) == ["000000-000002.zst"]
    assert read_all(path) == played
    assert [encode_trial(one) for one in read_batch(path, 2)] == [played["r/train/2/0"], played["r/train/2/1"]]
    await archive(path, 3)
    assert inline(path) == {"r/train/4/0"}
    assert segments(path) == ["000000-000002.zst", "000003-000003.zst"], "a segment never changes"
    assert read_all(path) == played


async def test_a_run_that_goes_back_to_an_earlier_checkpoint_trains_its_trials_from_the_segment(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path)
    await archive(path, 3)
    async with opened(path) as (journal, _):
        state = await journal.resume(1)
        assert {group.group_id for group in state.groups} == {2, 3, 4}
        await journal.claim(2, ["r/train/3/0"])
        assert [encode_trial(one) for one in read_batch(path, 2)] == [played["r/train/3/0"]]
        assert [encode_trial(one) for one in await journal.evaluated(0)] == [played["r/evaluate/0/0"]]
        assert await journal.evaluated(3) == (), "forgotten"
        again = trial(0, 3, 3, Purpose.EVALUATE)
        await store(journal, again)
        assert [encode_trial(one) for one in await journal.evaluated(3)] == [encode_trial(again)]


async def test_bodies_of_many_segments_and_commits_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of a few trials: 24 of them are moved by several segments, and each segment by several commits."""
    path = tmp_path / "journal.db"
    played = await play(path, updates=12)
    size = len(played["r/train/1/0"])
    monkeypatch.setattr(archiving, "_SEGMENT_BYTES", 5 * size)
    monkeypatch.setattr(archiving, "_COMMIT_BYTES", 2 * size)
    await archive(path, 12)
    assert inline(path) == {"r/train/13/0"}
    assert len(segments(path)) == 6
    assert read_all(path) == played


async def test_pages_of_bodies_that_moved_are_used_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    sizes = []
    async with opened(path) as (journal, _):
        for step in range(1, 9):
            batch = [trial(step, slot, tokens=5000) for slot in range(8)]
            await store(journal, *batch)
            await journal.claim(step, [one.trial_id for one in batch])
            await archive_with(journal, path, step)
            (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
            sizes.append(pages)
    grown = sizes[-1] - sizes[1]
    bodies_in_pages = 6 * 8 * len(encode_trial(trial(0, tokens=5000))) / 4096
    assert grown < bodies_in_pages / 10, "rows stay, bodies go"


async def test_a_journal_of_an_earlier_version_is_read_as_it_is_and_moves_once_it_is_written(tmp_path: Path) -> None:
    run = shutil.copytree(EARLIER, tmp_path / "before")
    path = run / "journal.db"
    before = read_all(path)
    assert len(before) > 0
    await archive(path, 1)
    assert read_all(path) == before
    assert len(inline(path)) < len(before)


async def test_segments_that_an_older_copy_of_the_journal_does_not_know_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path)
    await archive(path, 1)
    copy = path.read_bytes()
    await archive(path, 3)
    path.write_bytes(copy)
    await archive(path, 2)
    assert segments(path) == ["000000-000001.zst", "000002-000002.zst", "000002-000003.zst"]
    assert read_all(path) == played


@pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "other"])
async def test_a_segment_that_is_missing_or_damaged_is_named_with_the_trial(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    await archive(path, 3)
    segment = path.with_name("segments") / "000000-000003.zst"
    data = bytearray(segment.read_bytes())
    if harm == "flipped":
        data[-5] ^= 1
    whole = bodies.write_segment(tmp_path / "other", "0.zst", [("one", b"1" * 1000)])
    other = (tmp_path / "other" / whole[0].segment).read_bytes() * 100
    segment.write_bytes({"gone": b"", "cut": data[:-20], "flipped": data, "other": other}[harm])
    if harm == "gone":
        segment.unlink()
    with pytest.raises(Missing if harm == "gone" else BadInput, match=r"000000-000003\.zst.* of r/train/3/0"):
        read_batch(path, 3)


def _archive(path: Path) -> None:
    asyncio.run(archive(path, 3))


def test_killed_at_any_point_the_process_leaves_every_body_and_the_next_one_finishes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    played = asyncio.run(play(made / "journal.db"))
    leftovers = 0
    for path in killed_copies(made, _archive, 29):
        assert read_all(path) == played, path
        leftovers += len(segments(path)) > 0 and len(inline(path)) == len(played)
        asyncio.run(archive(path, 3))
        assert read_all(path) == played, path
        assert (segments(path), inline(path)) == (["000000-000003.zst"], {"r/train/4/0"}), path
    assert leftovers > 0, "some were killed between the segment and the commit"
