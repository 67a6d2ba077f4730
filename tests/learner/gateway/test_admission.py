"""The staleness bound on whole made-up runs: groups and admission as pure logic, with any order of finishing."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.common.records import Purpose, Task
from lamer.learner.gateway.admission import Admission
from lamer.learner.gateway.groups import GroupTable
from lamer.learner.journal.entries import RestoredGroup, TrialEntry


def test_admission_leaves_room_for_max_staleness_plus_one_batches_ahead_of_the_applied_version() -> None:
    admission = Admission(groups=2, max_staleness=1, updates=100)
    assert [admission.may_admit(admitted, applied=0) for admitted in (0, 3, 4)] == [True, True, False]
    assert admission.may_admit(4, applied=1)


def test_nothing_is_admitted_beyond_the_last_update() -> None:
    admission = Admission(groups=2, max_staleness=4, updates=3)
    assert admission.may_admit(5, applied=2)
    assert not admission.may_admit(6, applied=2)


def test_with_staleness_zero_servers_must_hold_exactly_the_trainers_version() -> None:
    admission = Admission(groups=2, max_staleness=0, updates=9)
    assert [admission.may_lease(applied, trained_from=3) for applied in (2, 3, 4)] == [False, True, False]


def test_the_docstrings_example_makes_the_second_cut_wait() -> None:
    # S = 2, G = 1: groups 0, 1, 2 of version 0 and 3 of version 1; group 2 was trained from version 0.
    admission = Admission(groups=1, max_staleness=2, updates=9)
    assert admission.would_be_late([0, 0], trained_from=1), "cut {3} would leave 0 and 1 for versions 2 and 3"
    assert not admission.would_be_late([0, 1], trained_from=1), "cut {0} leaves 1 for version 2 and 3 for version 3"


@pytest.mark.parametrize(("oldest", "is_stale"), [(2, True), (3, False), (9, False)])
def test_a_group_is_stale_when_its_oldest_token_is_more_than_max_staleness_old(oldest: int, is_stale: bool) -> None:
    assert Admission(1, max_staleness=4, updates=99).is_stale(oldest, trained_from=7) is is_stale


@dataclass
class MadeUpRun:
    """One run without sockets: the chooser decides who finishes next, what fails and how late servers follow."""

    groups: int
    group_size: int
    max_staleness: int
    updates: int
    seed: int

    def __post_init__(self) -> None:
        admission = Admission(self.groups, self.max_staleness, self.updates)
        self.admission = admission
        self.chooser = random.Random(self.seed)
        self.table = GroupTable(
            admission, self.group_size, slot_retries=1, drops_stale=False, make_task=lambda n: Task("doors", "{}", n)
        )
        self.trainer = 0
        self.applied = 0
        self.playing: list[tuple[int, int, int]] = []
        self.ages: list[int] = []

    def choose(self, count: int) -> int:
        return self.chooser.randrange(count)

    def lease_all(self) -> None:
        if not self.admission.may_lease(self.applied, self.trainer):
            return
        while (taken := self.table.take_slot(self.applied)) is not None or self.table.admit(self.applied) is not None:
            if taken is not None:
                self.playing.append((taken[0].group_id, taken[1], self.applied))

    def finish_one(self) -> None:
        group_id, slot, version = self.playing.pop(self.choose(len(self.playing)))
        if self.choose(10) == 0:
            if not self.table.fail(group_id, slot):
                self.table.drop(group_id)
            return
        self.table.accept(group_id, slot)
        self.table.store(TrialEntry(f"r/train/{group_id}/{slot}", group_id, slot, Purpose.TRAIN, version, 1, None))

    def try_cut(self) -> None:
        cut = self.table.cut(self.trainer)
        if cut.groups:
            assert len(cut.groups) == self.groups
            assert all(len(group.trials) == self.group_size for group in cut.groups), "never partial"
            self.ages += [self.trainer - group.oldest_version for group in cut.groups]
            self.trainer += 1

    def play(self) -> None:
        self.try_cut()
        while self.trainer < self.updates:
            self.lease_all()
            can_apply, can_finish = self.applied < self.trainer, bool(self.playing)
            assert can_apply or can_finish, "deadlock: nothing is played and no batch can be cut"
            if can_apply and (not can_finish or self.choose(3) == 0):
                self.applied += 1
            else:
                self.finish_one()
            self.try_cut()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3), st.integers(1, 2), st.integers(0, 4), st.integers(1, 8), st.integers(0))
def test_no_batch_exceeds_max_staleness_and_every_run_ends(
    groups: int, group_size: int, max_staleness: int, updates: int, seed: int
) -> None:
    run = MadeUpRun(groups, group_size, max_staleness, updates, seed)
    run.play()
    assert len(run.ages) == groups * updates
    assert max(run.ages) <= max_staleness


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 6), st.integers(0, 4), st.integers(0))
def test_a_run_that_resumes_with_any_backlog_of_groups_goes_on_to_its_end(
    groups: int, max_staleness: int, backlog: int, step: int, seed: int
) -> None:
    """Clamping can leave more groups of one version than fit its bound: cuts must not wait for ever."""
    run = MadeUpRun(groups, 1, max_staleness, step + 4, seed)
    run.trainer = run.applied = step
    trained = range(groups * step)
    restored = []
    for group_id in range(len(trained), len(trained) + backlog):
        entry = TrialEntry(f"r/train/{group_id}/0", group_id, 0, Purpose.TRAIN, step, 1, None)
        restored.append(RestoredGroup(group_id, step, (entry,) if run.choose(2) else ()))
    run.table.restore(restored, set(trained), len(trained) + backlog, frozenset())
    run.play()
    assert run.trainer == step + 4
