"""A damaged journal is made whole: what is damaged is set aside, the rest is kept, and training goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lamer.common.codec import encode_trial
from lamer.common.errors import Missing
from lamer.learner.journal.checking import check
from lamer.learner.journal.reader import read_batch
from lamer.learner.journal.repairing import repair
from tests.learner.journal.killing import killed_copies
from tests.learner.journal.parts import archive, opened, play, read_all, store, trial
from tests.learner.journal.test_checking import change, flip_logprob


def lines(folder: Path | None) -> dict[str, dict[str, object]]:
    """What `trials.jsonl` says, by trial."""
    assert folder is not None
    trees = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return {tree["trial_id"]: tree for tree in trees}


async def test_damaged_bodies_are_set_aside_and_the_rest_is_kept(tmp_path: Path) -> None:
    """One of a batch, one that waits to be trained, one in a segment."""
    path = tmp_path / "journal.db"
    played = await play(path)
    await archive(path, 1)
    segment = path.with_name("segments") / "000000-000001.zst"
    segment.write_bytes(segment.read_bytes()[:-9])
    flip_logprob(path, "r/train/2/1")
    flip_logprob(path, "r/train/4/0")
    done = repair(path, 0)
    taken = {"r/train/1/0", "r/train/1/1", "r/train/5/0", "r/evaluate/0/0", "r/train/2/1", "r/train/4/0"}
    assert {problem.trial_id for problem in done.taken} == set(lines(done.folder)) == taken
    assert (done.folder, done.salvaged, done.kept) == (tmp_path / "damaged-1", False, 8)
    for line in lines(done.folder).values():
        assert (tmp_path / "damaged-1" / "bodies" / str(line["bytes"])).stat().st_size > 0
    assert check(path).problems == ()
    kept = {one: body for one, body in read_all(path).items() if body}
    assert kept == {one: body for one, body in played.items() if one not in taken}
    with pytest.raises(Missing, match="r/train/2/1 was damaged and set aside by `lamer journal repair`"):
        read_batch(path, 2)
    again = repair(path, 0)
    assert (again.folder, again.taken) == (None, [])


async def test_what_was_set_aside_is_played_again_where_training_still_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    for one in ("r/train/1/0", "r/train/2/1", "r/train/4/0"):
        flip_logprob(path, one)
    repair(path, 0)
    async with opened(path) as (journal, _):
        state = await journal.resume(1)
        assert {group.group_id: sorted(one.slot for one in group.trials) for group in state.groups} == {
            2: [0],
            3: [0, 1],
            4: [],
        }
        assert state.trained == {1}, "update 1 stays trained"
        again = trial(2, 1, 1)
        await store(journal, again)
        await journal.claim(2, ["r/train/2/0", "r/train/2/1"])
        assert encode_trial(read_batch(path, 2)[1]) == encode_trial(again)


async def test_rows_that_contradict_themselves_go(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    change(path, "UPDATE trials SET step = NULL WHERE trial_id = 'r/train/1/0'")
    done = repair(path, 0)
    assert set(lines(done.folder)) == {"r/train/1/0"}
    assert lines(done.folder)["r/train/1/0"]["problem"] == "is claimed, but for no update"
    assert check(path).problems == ()


@pytest.mark.parametrize("page", [2, 5, 6, 8, 11, 14])
async def test_of_a_file_with_a_damaged_page_every_other_trial_is_kept(tmp_path: Path, page: int) -> None:
    path = tmp_path / "journal.db"
    played = await play(path, updates=40)
    data = bytearray(path.read_bytes())
    size = 4096
    assert len(data) > (page + 1) * size
    data[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(data)
    assert check(path).file
    done = repair(path, 0)
    found = check(path)
    assert (found.file, found.trials) == ((), [])
    assert (tmp_path / "damaged-1" / "journal.db").read_bytes() == bytes(data)
    kept = {one: body for one, body in read_all(path).items() if body}
    assert kept.items() <= played.items(), "nothing but what was stored"
    assert len(kept) > len(played) - 30
    assert set(done.lost) in (set(), set(played) - set(read_all(path)))
    async with opened(path) as (journal, _):
        state = await journal.resume(40)
        assert all(group.trials for group in state.groups), "what was lost may have been trained: not played again"


async def test_where_the_page_that_leads_to_all_trials_is_damaged_the_numbering_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    played = await play(path, updates=40)
    data = bytearray(path.read_bytes())
    data[2 * 4096 : 3 * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    done = repair(path, 7)
    assert (done.kept, done.next_group, set(done.lost)) == (0, 43, set(played))


@pytest.mark.parametrize("remains", [b"", b"no database" * 1000, None])
async def test_without_anything_to_read_a_new_journal_goes_on_numbering(tmp_path: Path, remains: bytes | None) -> None:
    path = tmp_path / "journal.db"
    await play(path)
    await archive(path, 3)
    path.unlink()
    if remains is not None:
        path.write_bytes(remains)
    done = repair(path, 120)
    assert (done.next_group, done.kept) == (120, 0)
    assert [file.name for file in (tmp_path / "damaged-1" / "segments").iterdir()] == ["000000-000003.zst"]
    assert check(path).problems == ()
    async with opened(path) as (journal, _):
        state = await journal.resume(3)
        assert (state.next_group_id, state.groups) == (120, ())


def _repair(path: Path) -> None:
    repair(path, 0)


def test_killed_at_any_point_a_repair_loses_nothing_and_is_completed_by_the_next_call(tmp_path: Path) -> None:
    """A page that can't be read, and a body that is damaged on another one."""
    made = tmp_path / "made"
    made.mkdir()
    path = made / "journal.db"
    played = asyncio.run(play(path, updates=20))
    flip_logprob(path, "r/train/19/1")
    data = bytearray(path.read_bytes())
    data[4 * 4096 : 5 * 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    outcomes = set()
    for killed in killed_copies(made, _repair, 211):
        repair(killed, 0)
        outcomes.add(tuple(sorted(one for one, body in read_all(killed).items() if body)))
        found = check(killed)
        assert (found.file, found.trials) == ((), []), killed
        assert [folder.name for folder in killed.parent.glob("damaged-*")] == ["damaged-1"], killed
        assert lines(killed.parent / "damaged-1").keys() == {"r/train/19/1"}, killed
    (kept,) = outcomes
    assert len(played) > len(kept) > len(played) - 30


def test_a_repair_that_was_killed_before_its_journal_took_the_place_goes_on_from_what_it_kept(tmp_path: Path) -> None:
    """Killed after the damaged file was kept and before the new one took its place; its journal is gone."""
    path = tmp_path / "journal.db"
    played = asyncio.run(play(path, updates=40))
    data = bytearray(path.read_bytes())
    data[4 * 4096 : 5 * 4096] = b"\xa5" * 4096
    place = tmp_path / "damaged-1.unfinished"
    place.mkdir()
    (place / "journal.db").write_bytes(data)
    path.unlink()
    done = repair(path, 0)
    assert done.salvaged
    assert done.folder == tmp_path / "damaged-1"
    assert len(read_all(path)) > len(played) - 30
    assert not place.exists()
