"""Bodies of old trials are deleted on request: those asked for, for good, and their rows stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.learner.journal.pruning import last_trained, prunable, prune
from lamer.learner.journal.reader import JournalReader, TrialFilter, read_batch
from tests.learner.journal.killing import killed_copies
from tests.learner.journal.parts import archive, play, read_all


async def test_old_bodies_go_rows_stay_and_what_is_wanted_reads_as_before(tmp_path: Path) -> None:
    """Updates 1 and 2 lie in one segment, 3 in another, 4 and 5 in the journal."""
    path = tmp_path / "journal.db"
    played = await play(path, updates=5)
    await archive(path, 2)
    await archive(path, 3)
    assert last_trained(path) == 3
    found = prunable(path, 2)
    segment = path.with_name("segments") / "000000-000002.zst"
    assert (found.trials, found.segments, found.journal_bytes) == (6, (segment.name,), 0)
    assert found.segment_bytes == segment.stat().st_size
    prune(path, 2)
    assert [file.name for file in segment.parent.iterdir()] == ["000003-000003.zst"]
    gone = {"r/train/1/0", "r/train/1/1", "r/train/2/0", "r/train/2/1", "r/train/7/0", "r/evaluate/0/0"}
    assert read_all(path) == {one: b"" if one in gone else body for one, body in played.items()}
    assert JournalReader(path).count(TrialFilter(step=1)) == 2
    with pytest.raises(Missing, match="r/train/1/0 was deleted by `lamer journal prune`"):
        read_batch(path, 1)
    assert prunable(path, 2).trials == 0


async def test_bodies_that_never_moved_are_pruned_and_the_file_gets_smaller(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path, updates=100)
    before = path.stat().st_size
    found = prunable(path, 90)
    assert (found.trials, found.segments) == (2 * 90 + 2, ())
    assert found.journal_bytes == sum(
        len(played[f"r/train/{step}/{slot}"]) for step in range(1, 91) for slot in (0, 1)
    ) + len(played["r/train/102/0"]) + len(played["r/evaluate/0/0"])
    prune(path, 90)
    assert before - path.stat().st_size > found.journal_bytes / 2
    assert {one for one, body in read_all(path).items() if body} == {
        *(f"r/train/{step}/{slot}" for step in range(91, 101) for slot in (0, 1)),
        "r/train/101/0",
        "r/evaluate/0/100",
    }


async def test_a_segment_of_which_a_part_is_kept_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path)
    await archive(path, 3)
    found = prunable(path, 1)
    assert (found.trials, found.segments) == (4, ())
    prune(path, 1)
    assert read_all(path)["r/train/2/0"] == played["r/train/2/0"]
    assert prunable(path, 3).segments == ("000000-000003.zst",)


def _prune(path: Path) -> None:
    prune(path, 2)


def test_killed_at_any_point_pruning_leaves_what_is_kept_and_is_completed_by_the_next_call(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    played = asyncio.run(play(made / "journal.db"))
    asyncio.run(archive(made / "journal.db", 2))
    kept = {"r/train/3/0", "r/train/3/1", "r/train/4/0", "r/evaluate/0/3"}
    for path in killed_copies(made, _prune, 17):
        assert {one: body for one, body in read_all(path).items() if one in kept} == {one: played[one] for one in kept}
        prune(path, 2)
        assert {one for one, body in read_all(path).items() if body} == kept
        assert list((path.parent / "segments").iterdir()) == []
