"""Leases: one holder a trial, deadlines, and what comes back."""

from __future__ import annotations

from lamer.common.messages import Lease, Sampling
from lamer.common.records import MemoryMode, Purpose, Task, make_trial_id
from lamer.learner.gateway.leases import LeaseTable


def lease(group_id: int, slot: int = 0, purpose: Purpose = Purpose.TRAIN, seconds: float = 10.0) -> Lease:
    return Lease(
        trial_id=make_trial_id("r", purpose, group_id, slot),
        group_id=group_id,
        slot=slot,
        purpose=purpose,
        task=Task("doors", "{}", 0),
        episodes=3,
        memory=MemoryMode.BOTH,
        sampling=Sampling(1.0, 1.0, 0, 8, 8),
        seconds=seconds,
    )


def test_a_lease_expires_at_its_deadline_and_not_before() -> None:
    table = LeaseTable()
    table.grant(lease(0), "a", now=100.0)
    table.grant(lease(1, seconds=20.0), "a", now=100.0)
    assert table.expire(109.9) == ()
    assert [granted.lease for granted in table.expire(110.0)] == [lease(0)]
    assert len(table) == 1


def test_a_lease_given_to_another_counts_for_the_other_only() -> None:
    table = LeaseTable()
    table.grant(lease(0), "a", now=0.0)
    table.grant(lease(0), "b", now=0.0)
    assert (table.held_by("a"), table.held_by("b"), len(table)) == (0, 1, 1)


def test_a_lost_actor_gives_back_its_own_leases_only() -> None:
    table = LeaseTable()
    for group_id, holder in enumerate("aba"):
        table.grant(lease(group_id), holder, now=0.0)
    assert table.release_all("a") == (lease(0), lease(2))
    assert table.of("b") == (lease(1),)
    assert table.held_by("a") == 0


def test_a_release_is_counted_once() -> None:
    table = LeaseTable()
    table.grant(lease(0), "a", now=0.0)
    held = table.release(lease(0).trial_id)
    assert held is not None
    assert held.holder == "a"
    assert table.release(lease(0).trial_id) is None
    assert table.held_by("a") == 0


def test_training_slots_leave_evaluation_out() -> None:
    table = LeaseTable()
    table.grant(lease(3, 1), "a", now=0.0)
    table.grant(lease(3, 1, Purpose.EVALUATE), "a", now=0.0)
    assert table.training_slots() == frozenset({(3, 1)})
