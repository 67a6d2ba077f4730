"""Groups from admission to a batch."""

from __future__ import annotations

from lamer.common.records import Purpose, Task
from lamer.learner.gateway.admission import Admission
from lamer.learner.gateway.groups import Acceptance, GroupTable
from lamer.learner.journal.entries import RestoredGroup, TrialEntry


def make_table(
    groups: int = 1, size: int = 2, max_staleness: int = 2, retries: int = 1, drops: bool = True
) -> GroupTable:
    admission = Admission(groups, max_staleness, updates=100)
    return GroupTable(admission, size, retries, drops, make_task=lambda n: Task("doors", "{}", n))


def entry(group_id: int, slot: int, version: int = 0) -> TrialEntry:
    return TrialEntry(f"r/train/{group_id}/{slot}", group_id, slot, Purpose.TRAIN, version, 5, None)


def fill(table: GroupTable, group_id: int, version: int = 0, size: int = 2) -> None:
    for slot in range(size):
        assert table.accept(group_id, slot) is Acceptance.NEW
        table.store(entry(group_id, slot, version))


def taken(table: GroupTable, applied: int = 1000) -> list[tuple[int, int]]:
    slots = []
    while (one := table.take_slot(applied)) is not None:
        slots.append((one[0].group_id, one[1]))
    return slots


def test_a_groups_slots_are_leased_once_each_and_share_its_task() -> None:
    table = make_table()
    group = table.admit(0)
    assert group is not None
    assert group.task.seed == 0
    assert taken(table) == [(0, 0), (0, 1)]


def test_a_trial_is_new_once_and_a_duplicate_afterwards_even_when_trained() -> None:
    table = make_table()
    table.admit(0)
    fill(table, 0)
    assert table.accept(0, 0) is Acceptance.DUPLICATE
    assert len(table.cut(0).groups) == 1
    assert table.accept(0, 0) is Acceptance.DUPLICATE
    assert table.accept(7, 0) is Acceptance.LATE


def test_a_failed_slot_is_leased_again_first_and_only_as_often_as_allowed() -> None:
    table = make_table(retries=2)
    table.admit(0)
    taken(table)
    table.admit(0)
    assert table.fail(0, 1)
    assert taken(table)[0] == (0, 1)
    assert table.fail(0, 1)
    assert not table.fail(0, 1)


def test_a_failure_reported_after_the_trial_was_accepted_is_ignored() -> None:
    table = make_table(retries=0)
    table.admit(0)
    table.accept(0, 0)
    assert table.fail(0, 0)


def test_a_slot_whose_late_trial_arrived_is_not_leased_again() -> None:
    table = make_table()
    table.admit(0)
    taken(table)
    table.fail(0, 0)
    table.accept(0, 0)
    assert taken(table) == []


def test_a_dropped_group_makes_room_and_its_trials_come_too_late() -> None:
    table = make_table(max_staleness=0)
    table.admit(0)
    assert table.admit(0) is None
    assert table.drop(0) is not None
    assert table.drop(0) is None
    assert table.accept(0, 0) is Acceptance.LATE
    replacement = table.admit(0)
    assert replacement is not None
    assert replacement.group_id == 1


def test_a_cut_takes_the_lowest_admitted_version_then_the_lowest_id() -> None:
    table = make_table(groups=2, max_staleness=4)
    for version in (0, 0, 0, 0):
        table.admit(version)
    for group_id in (3, 1, 2):
        fill(table, group_id)
    assert [group.group_id for group in table.cut(0).groups] == [1, 2]


def test_a_cut_waits_for_an_older_group_that_the_next_would_take_too_late() -> None:
    table = make_table(groups=1, max_staleness=1)
    table.admit(0)
    table.admit(0)
    assert len(taken(table, applied=0)) == 4
    fill(table, 1)
    assert [group.group_id for group in table.cut(0).groups] == [1], "group 0 still fits the next batch"
    table.admit(1)
    fill(table, 2, version=1)
    assert table.cut(1).groups == (), "group 0 would be two updates old"
    fill(table, 0)
    assert [group.group_id for group in table.cut(1).groups] == [0]


def test_a_cut_that_waited_goes_on_when_the_old_group_is_dropped() -> None:
    table = make_table(groups=1, max_staleness=0)
    table.restore([RestoredGroup(0, 0, ()), RestoredGroup(1, 0, ())], set(), 2, frozenset())
    playing = {(0, 0), (1, 0)}
    table.restore([RestoredGroup(0, 0, ()), RestoredGroup(1, 0, ())], set(), 2, playing)
    fill(table, 1)
    assert table.cut(0).groups == ()
    table.drop(0)
    assert [group.group_id for group in table.cut(0).groups] == [1]


def test_a_cut_passes_over_a_group_of_which_nothing_was_played_yet() -> None:
    table = make_table(groups=1, max_staleness=0)
    table.restore([RestoredGroup(0, 0, ()), RestoredGroup(1, 0, (entry(1, 0), entry(1, 1)))], set(), 2, frozenset())
    assert [group.group_id for group in table.cut(0).groups] == [1]


def test_a_group_with_too_old_tokens_is_dropped_or_trained_as_told() -> None:
    for drops in (True, False):
        table = make_table(groups=1, max_staleness=1, drops=drops)
        table.admit(0)
        table.admit(0)
        fill(table, 0, version=0)
        fill(table, 1, version=4)
        cut = table.cut(4)
        assert [group.group_id for group in cut.stale] == ([0] if drops else [])
        assert [group.group_id for group in cut.groups] == ([1] if drops else [0])


def test_restored_groups_beyond_what_the_applied_version_allows_wait_for_their_place() -> None:
    """The run was further when it admitted them; played at the checkpoint's version they would be trained too late."""
    table = make_table(groups=1, max_staleness=1)
    table.restore([RestoredGroup(group_id, 0, ()) for group_id in range(4)], set(), 4, frozenset())
    assert taken(table, applied=0) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert taken(table, applied=0) == []
    assert taken(table, applied=1) == [(2, 0), (2, 1)]
    third = table.get(2)
    assert third is not None
    assert third.admitted_version == 1, "none of its tokens is older than the version at its first lease"


def test_restored_groups_lease_only_what_is_missing_and_not_being_played() -> None:
    table = make_table(size=3)
    groups = [RestoredGroup(4, 2, (entry(4, 1),)), RestoredGroup(5, 2, ())]
    table.restore(groups, {0, 1, 2, 3}, next_id=9, leased={(5, 0)})
    assert taken(table) == [(4, 0), (4, 2), (5, 1), (5, 2)]
    assert table.admitted == 6
    assert table.accept(4, 1) is Acceptance.DUPLICATE
    assert table.accept(3, 0) is Acceptance.DUPLICATE
    admitted = table.admit(5)
    assert admitted is not None
    assert admitted.group_id == 9


def test_groups_that_a_repaired_journal_has_forgotten_count_as_admitted() -> None:
    """21 updates were trained and the journal is new: counted as none, 21 groups too many would be played and be too
    old when their turn comes.
    """
    table = make_table(groups=1, max_staleness=1)
    table.restore([], frozenset(), 230, frozenset(), updates=21)
    admitted = [table.admit(21) for _ in range(3)]
    assert [group.group_id for group in admitted if group is not None] == [230, 231]
    assert table.admitted == 23
