"""Bodies that a durable checkpoint covers move into segments, whole, and are read as before."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

from lamer.common.codec import encode_trial
from lamer.common.errors import BadInput, Missing
from lamer.common.records import Purpose
from lamer.learner.journal import archiving, bodies, writer
from lamer.learner.journal.reader import read_batch
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


@pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "other"])
async def test_a_segment_that_is_missing_or_damaged_is_named_with_the_trial(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    await archive(path, 3)
    segment = path.with_name("segments") / "000000-000003.zst"
    data = bytearray(segment.read_bytes())
    if harm == "flipped":
        data[-5] ^= 1
    whole = bodies.write_segment(tmp_path / "other", 0, 0, [("one", b"1" * 1000)])
    other = (tmp_path / "other" / whole[0].segment).read_bytes() * 100
    segment.write_bytes({"gone": b"", "cut": data[:-20], "flipped": data, "other": other}[harm])
    if harm == "gone":
        segment.unlink()
    with pytest.raises(Missing if harm == "gone" else BadInput, match=r"000000-000003\.zst.* of r/train/3/0"):
        read_batch(path, 3)


class Killer:
    """Ends the process at the n-th line of ours that it comes to, in whatever thread."""

    FILES = frozenset(str(module.__file__) for module in (archiving, bodies, writer))

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame: FrameType, event: str, _: object) -> Killer | None:
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os._exit(9)
        return self


def _archive_until(path: Path, lines: int) -> None:
    killer = Killer(lines)
    threading.settrace(killer)
    sys.settrace(killer)
    asyncio.run(archive(path, 3))


def test_killed_at_any_point_the_process_leaves_every_body_and_the_next_one_finishes(tmp_path: Path) -> None:
    """A child process is killed at every 29th line that it executes, until it comes through."""
    made = tmp_path / "made"
    made.mkdir()
    played = asyncio.run(play(made / "journal.db"))
    lines, code, leftovers = 1, 9, 0
    while code != 0:
        path = shutil.copytree(made, tmp_path / f"killed-{lines}") / "journal.db"
        child = multiprocessing.get_context("fork").Process(target=_archive_until, args=(path, lines))
        child.start()
        child.join()
        code = child.exitcode or 0
        assert code in (0, 9)
        assert read_all(path) == played, lines
        leftovers += len(segments(path)) > 0 and len(inline(path)) == len(played)
        asyncio.run(archive(path, 3))
        assert read_all(path) == played, lines
        assert (segments(path), inline(path)) == (["000000-000003.zst"], {"r/train/4/0"}), lines
        lines += 29
    assert leftovers > 1, "some were killed between the segment and the commit"
