"""A gateway that is held up takes nobody for dead: real sockets, and a journal that can't be written for a while."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest

from lamer.common.codec import encode_trial
from lamer.common.messages import Lease, Role, TrialDone
from lamer.common.settings import BatchSettings, GatewaySettings
from lamer.learner.gateway.hearing import Hearing
from tests.learner.scripted import TIMEOUT, Actor, Trainer, make_run, make_trial

STALL_SECONDS = 2.5
"""Longer than a peer may be silent and than a lease lasts, shorter than sqlite waits for a lock."""


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.hearing = Hearing(lambda: self.now, beat=2.0)

    def after(self, seconds: float) -> float:
        """What the gateway has heard so many seconds later."""
        self.now += seconds
        return self.hearing.now()


def test_time_counts_while_messages_are_received() -> None:
    time = Time()
    assert [time.after(2.0), time.after(0.5), time.after(0.0)] == [2.0, 2.5, 2.5]


def test_time_in_which_the_receiver_waits_for_a_disk_does_not_count() -> None:
    time = Time()
    time.after(1.0)
    with time.hearing.held_up():
        assert [time.after(2.0), time.after(2.0)] == [1.0, 1.0]
        time.now += 1.0
    assert time.after(0.5) == 1.5


def test_of_a_blocked_loop_one_beat_counts() -> None:
    time = Time()
    assert time.after(700.0) == 2.0
    assert time.after(1.0) == 3.0


async def test_a_journal_that_stalls_takes_nobody_for_dead_and_no_lease_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second trial waits in a socket while the first waits for the disk; a slot that was lost would not be played
    again.
    """
    caplog.set_level(logging.WARNING, "lamer")
    run = make_run(
        tmp_path,
        batch=BatchSettings(groups=1, group_size=2, updates=1, max_staleness=0),
        gateway=GatewaySettings(
            heartbeat_seconds=0.1, dead_after_seconds=1.0, lease_seconds=1.0, slot_retries=0, credit_bytes=1024
        ),
    )
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        training = tasks.create_task(run.gateway())
        tasks.create_task(run.host())
        async with (
            run.session(Role.TRAINER) as trainer,
            run.session(Role.ACTOR, "first", capacity=1) as first,
            run.session(Role.ACTOR, "second", capacity=1) as second,
        ):
            updating = tasks.create_task(Trainer(trainer, run.plan.run_dir).run())
            actors = Actor(first, play=lambda *_: None), Actor(second, play=lambda *_: None)
            for actor in actors:
                while not actor.leases:
                    await actor.take(await actor.session.receive())
            disk = sqlite3.connect(run.plan.run_dir / "journal.db", isolation_level=None)
            disk.execute("BEGIN IMMEDIATE")
            for actor in actors:
                await send(actor, actor.leases[0])
            await asyncio.sleep(STALL_SECONDS)
            disk.close()
            for actor in actors:
                tasks.create_task(actor.run())
            assert await updating == 0
    assert training.result().drops == ()
    assert [(len(actor.acked), actor.nacks) for actor in actors] == [(1, []), (1, [])]
    assert "taken for dead" not in caplog.text
    assert "reconnect" not in caplog.text


async def send(actor: Actor, lease: Lease) -> None:
    """A trial that is bigger than what may wait for the disk."""
    await actor.session.send(TrialDone(lease.trial_id, encode_trial(make_trial(lease, tokens=1000))))
