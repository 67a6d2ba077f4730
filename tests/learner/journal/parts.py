"""Journals for tests: made-up trials stored, claimed and dropped in a real one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.codec import encode_trial
from lamer.common.errors import RunFailed
from lamer.common.messages import Lease, Sampling
from lamer.common.records import MemoryMode, Purpose, Task, Trial, make_trial_id
from lamer.learner.journal.archiving import Archiver
from lamer.learner.journal.entries import TrialEntry
from lamer.learner.journal.reader import JournalReader, TrialFilter
from lamer.learner.journal.writer import Journal
from tests.learner.scripted import make_trial


def trial(group_id: int, slot: int = 0, version: int = 0, purpose: Purpose = Purpose.TRAIN, tokens: int = 3) -> Trial:
    trial_id, task = make_trial_id("r", purpose, group_id, slot), Task("doors", "{}", 0)
    sampling = Sampling(1.0, 1.0, 0, 8, 8)
    lease = Lease(trial_id, group_id, slot, purpose, task, 3, MemoryMode.BOTH, sampling, 9.0)
    return make_trial(lease, version, tokens=tokens)


def entry_of(one: Trial) -> TrialEntry:
    tokens, solved_at = one.response_tokens, one.solved_at
    return TrialEntry(one.trial_id, one.group_id, one.slot, one.purpose, one.oldest_version, tokens, solved_at)


@dataclass
class Recorder:
    """What a journal told the event loop."""

    stored: list[str] = field(default_factory=list)
    failures: list[RunFailed] = field(default_factory=list)

    def on_stored(self, entries: Sequence[TrialEntry]) -> None:
        self.stored += [entry.trial_id for entry in entries]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Journal, Recorder]]:
    recorder = Recorder()
    journal = Journal(path, recorder.on_stored, recorder.failures.append)
    try:
        yield journal, recorder
    finally:
        await journal.close()


async def store(journal: Journal, *trials: Trial) -> None:
    for one in trials:
        if one.purpose is Purpose.TRAIN:
            journal.admit(one.group_id, one.oldest_version)
        journal.store(entry_of(one), encode_trial(one))
    await journal.claimed(0)  # a read is answered after all that was submitted before it


async def play(path: Path, updates: int = 3) -> dict[str, bytes]:
    """A journal with a batch of two trials an update, one more trial stored, one dropped (of version 0), evaluations of
    versions 0 and `updates`; the bodies by trial_id.
    """
    batches = [[trial(step, slot, step - 1) for slot in (0, 1)] for step in range(1, updates + 1)]
    stored, dropped = trial(updates + 1, 0, 1), trial(updates + 2)
    evaluated = [trial(0, version, version, Purpose.EVALUATE) for version in (0, updates)]
    everything = [one for batch in batches for one in batch] + [stored, dropped, *evaluated]
    async with opened(path) as (journal, _):
        await store(journal, *everything)
        await journal.drop(dropped.group_id, [])
        for step, batch in enumerate(batches, 1):
            await journal.claim(step, [one.trial_id for one in batch])
    return {one.trial_id: encode_trial(one) for one in everything}


async def archive(path: Path, step: int) -> None:
    """What a gateway does once a checkpoint of update `step` is durable."""
    async with opened(path) as (journal, recorder):
        await journal.mark_trained(step)
        await archive_with(journal, path, step)
        assert not recorder.failures


async def archive_with(journal: Journal, path: Path, step: int) -> None:
    archiver = Archiver(path, journal)
    archiver.covered(step)
    task = asyncio.create_task(archiver.run())
    try:
        await archiver.settled(30.0)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def read_all(path: Path) -> dict[str, bytes]:
    """Every trial's body by its id, as any process reads it; b"" where it was pruned."""
    reader = JournalReader(path)
    rows = reader.rows(TrialFilter(limit=1000))
    return {
        row.trial_id: b"" if found is None else encode_trial(found)
        for row, found in zip(rows, reader.trials(rows), strict=True)
    }
