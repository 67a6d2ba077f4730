"""The journal: durable, idempotent, resumable."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.codec import encode_trial
from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.records import Purpose
from lamer.learner.journal.entries import Drop, TrialEntry
from lamer.learner.journal.reader import JournalReader, TrialFilter, read_batch
from lamer.learner.journal.writer import Journal
from tests.learner.journal.parts import Recorder, entry_of, opened, store, trial


async def test_a_trial_stored_twice_is_one_row_with_the_first_body(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, recorder):
        await store(journal, trial(0, version=1), trial(0, version=2))
        await journal.claim(1, ["r/train/0/0"])
    assert recorder.stored == ["r/train/0/0"] * 2, "both are told to be durable"
    assert [one.oldest_version for one in read_batch(tmp_path / "journal.db", 1)] == [1]


async def test_a_batch_reads_back_sorted_and_equal_while_the_journal_is_open(tmp_path: Path) -> None:
    trials = [trial(group, slot) for group in (10, 9) for slot in (1, 0)]
    async with opened(tmp_path / "journal.db") as (journal, _):
        await store(journal, *trials)
        await journal.claim(1, [one.trial_id for one in trials])
        read = read_batch(tmp_path / "journal.db", 1)
    assert [one.trial_id for one in read] == sorted(one.trial_id for one in trials)
    assert {encode_trial(one) for one in read} == {encode_trial(one) for one in trials}
    assert read_batch(tmp_path / "journal.db", 1)[0].task == trials[0].task, "also after it was closed"


async def test_the_pragmas_that_make_an_acknowledged_trial_durable_are_set(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        connection = journal._connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_resuming_returns_later_claims_and_clamps_admitted_versions(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        await store(journal, *(trial(group, version=group) for group in range(5)))
        for step in (1, 2, 3):
            await journal.claim(step, [f"r/train/{step - 1}/0"])
        await journal.mark_trained(2)
        journal.admit(5, 3)
        state = await journal.resume(1)
        assert state.trained == {0}
        assert state.next_group_id == 6
        restored = [(g.group_id, g.admitted_version, len(g.trials)) for g in state.groups]
        assert restored == [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1), (5, 1, 0)]
        assert await journal.claimed(2) == ()
        assert await journal.claimed(1) == ("r/train/0/0",)


async def test_no_cursor_of_the_writers_thread_reaches_the_event_loop(tmp_path: Path) -> None:
    """Let go in another thread, it would reset a statement that the writer is at: SQLITE_MISUSE, and the run ends."""
    async with opened(tmp_path / "journal.db") as (journal, _):
        await store(journal, trial(0), trial(0, 1))
        claim = journal.claim(1, [trial(0).trial_id, trial(0, 1).trial_id])
        outcomes = await asyncio.gather(journal.admit(1, 0), claim, journal.mark_trained(1), journal.drop(1, []))
    assert outcomes == [None] * 4


async def test_every_state_of_a_trial_can_be_read_from_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        evaluated = trial(0, purpose=Purpose.EVALUATE)
        await store(journal, *(trial(group) for group in range(4)), evaluated)
        await journal.claim(1, ["r/train/0/0"])
        await journal.mark_trained(1)
        await journal.claim(2, ["r/train/1/0"])
        await journal.drop(2, [Drop(2, "r/train/2/0", "stale", "unsolved", 12, 7)])
    connection = sqlite3.connect(tmp_path / "journal.db")
    rows = connection.execute("SELECT trial_id, state, step, checkpoint FROM trials ORDER BY trial_id").fetchall()
    drops = connection.execute("SELECT * FROM drops").fetchall()
    connection.close()
    assert rows == [
        ("r/evaluate/0/0", "evaluated", None, None),
        ("r/train/0/0", "trained", 1, 1),
        ("r/train/1/0", "claimed", 2, None),
        ("r/train/2/0", "dropped", None, None),
        ("r/train/3/0", "stored", None, None),
    ]
    assert drops == [(2, "r/train/2/0", "stale", "unsolved", 12, 7)]


async def test_a_dropped_group_does_not_come_back_on_resume(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        await store(journal, trial(0), trial(1))
        journal.drop(0, [])
        assert [group.group_id for group in (await journal.resume(0)).groups] == [1]


async def test_evaluation_trials_are_kept_by_version_and_those_after_the_checkpoint_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        await store(journal, *(trial(0, slot, purpose=Purpose.EVALUATE) for slot in (0, 5)))
        assert [one.slot for one in await journal.evaluated(5)] == [5]
        await journal.resume(4)
        assert await journal.evaluated(5) == ()
        assert len(await journal.evaluated(0)) == 1


def _store_until_killed(path: Path, pipe: int) -> None:
    """In a child process: store trials for ever, writing a byte for each that is durable."""

    async def run() -> None:
        def tell(entries: Sequence[TrialEntry]) -> None:
            os.write(pipe, b"." * len(entries))

        journal = Journal(path, tell, lambda _: None)
        for group in range(1_000_000):
            await store(journal, trial(group))

    asyncio.run(run())


def test_what_was_told_durable_survives_sigkill(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_store_until_killed, args=(tmp_path / "journal.db", writer)
    )
    child.start()
    os.close(writer)
    told = 0
    while told < 50:
        told += len(os.read(reader, 64))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while rest := os.read(reader, 4096):
        told += len(rest)
    os.close(reader)
    connection = sqlite3.connect(tmp_path / "journal.db")
    (stored,) = connection.execute("SELECT COUNT(*) FROM trials").fetchone()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert stored >= told


async def test_pending_bytes_hold_the_writer_back_until_they_are_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, _):
        body = encode_trial(trial(0))
        for group in range(50):
            journal.store(entry_of(trial(group)), body)
        assert journal.pending_bytes == 50 * len(body)
        await journal.drained(len(body))
        assert journal.pending_bytes <= len(body)


async def test_a_journal_that_cannot_be_written_fails_the_run_and_says_where(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, recorder):
        await journal.admit(0, 0)
        journal._submit(lambda connection: connection.execute("INSERT INTO no_such_table VALUES(1)"))
        async with asyncio.timeout(5):
            while not recorder.failures:  # noqa: ASYNC110 - the failure comes from the journal's thread
                await asyncio.sleep(0.01)
    assert "journal.db can't be written" in str(recorder.failures[0])


def test_a_batch_that_was_not_cut_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="can't be opened"):
        read_batch(tmp_path / "journal.db", 1)
    asyncio.run(_make_empty(tmp_path / "journal.db"))
    with pytest.raises(Missing, match="no batch of update 1"):
        read_batch(tmp_path / "journal.db", 1)


async def _make_empty(path: Path) -> None:
    async with opened(path):
        pass


async def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    with pytest.raises(BadInput, match="can't be used as a journal"):
        Journal(tmp_path / "journal.db", lambda _: None, lambda _: None)


async def until_failed(recorder: Recorder) -> str:
    async with asyncio.timeout(5):
        while not recorder.failures:  # noqa: ASYNC110 - the failure comes from the journal's thread
            await asyncio.sleep(0.01)
    return str(recorder.failures[0])


async def test_any_death_of_the_writers_thread_ends_the_run_and_whoever_waits_for_it_hears_why(tmp_path: Path) -> None:
    """A version that SQLite has no integer for: OverflowError, no error of SQLite's."""
    async with opened(tmp_path / "journal.db") as (journal, recorder):
        journal.store(replace(entry_of(trial(0)), oldest_version=2**63), encode_trial(trial(0)))
        waiting = journal.claim(1, ["r/train/0/0"])
        assert "journal.db can't be written: OverflowError: Python int too large" in await until_failed(recorder)
        for late in (waiting, journal.mark_trained(1)):
            with pytest.raises(RunFailed, match="OverflowError"):
                await asyncio.wait_for(late, 5)
        with pytest.raises(RunFailed, match="OverflowError"):
            await asyncio.wait_for(journal.drained(1), 5)


async def test_a_full_disk_is_told_as_such_with_what_to_do(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as (journal, recorder):
        await store(journal, trial(0))
        await journal._submit(lambda connection: connection.execute("PRAGMA max_page_count = 20").fetchone())
        for group in range(1, 20):
            journal.store(entry_of(trial(group)), bytes(10_000))
        said = await until_failed(recorder)
    assert "can't be written: database or disk is full; the disk is full: free some space" in said
    assert "go on with --resume" in said
    assert len(JournalReader(tmp_path / "journal.db").rows(TrialFilter())) >= 1


async def test_a_damaged_journal_names_the_way_out_wherever_it_is_met(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(BadInput, match=f"lamer journal repair {tmp_path}"):
        Journal(path, lambda _: None, lambda _: None)
    with pytest.raises(Missing, match=f"lamer journal repair {tmp_path}"):
        read_batch(path, 1)
    path.unlink()
    with pytest.raises(Missing, match=f"lamer journal repair {tmp_path}"):
        read_batch(path, 1)
