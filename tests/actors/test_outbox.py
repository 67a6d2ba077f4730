"""Trials that wait for their acknowledgement."""

from __future__ import annotations

from lamer.actors.outbox import RESEND_SECONDS, Outbox
from lamer.common.messages import TrialDone


def done(slot: int, size: int = 10) -> TrialDone:
    return TrialDone(f"run/train/0/{slot}", b"x" * size)


def test_a_trial_is_sent_again_until_it_is_acknowledged() -> None:
    outbox = Outbox(10, 1000)
    outbox.add(done(0), now=0.0)
    assert outbox.take_due(1.0) == ()
    assert outbox.next_due() == RESEND_SECONDS
    assert outbox.take_due(RESEND_SECONDS) == (done(0),)
    assert outbox.take_due(RESEND_SECONDS) == ()
    assert outbox.take_due(2 * RESEND_SECONDS) == (done(0),)
    assert outbox.remove("run/train/0/0")
    assert outbox.next_due() is None


def test_a_reconnection_makes_everything_due() -> None:
    outbox = Outbox(10, 1000)
    outbox.add(done(0), now=0.0)
    outbox.add(done(1), now=0.0)
    outbox.set_all_due(1.0)
    assert outbox.take_due(1.0) == (done(0), done(1))


def test_the_outbox_is_full_at_the_gateways_credit_of_trials_or_bytes() -> None:
    by_count, by_bytes = Outbox(2, 1000), Outbox(10, 25)
    for slot in range(2):
        assert not by_count.is_full
        by_count.add(done(slot), 0.0)
    for slot in range(3):
        assert not by_bytes.is_full
        by_bytes.add(done(slot), 0.0)
    assert by_count.is_full
    assert by_bytes.is_full
    by_bytes.remove("run/train/0/0")
    assert not by_bytes.is_full


def test_a_trial_played_twice_is_kept_once() -> None:
    outbox = Outbox(10, 1000)
    outbox.add(done(0), 0.0)
    outbox.add(done(0, size=20), 0.0)
    assert len(outbox) == 1
    assert not outbox.remove("run/train/0/9")
