"""Groups of trials from admission to a batch: which slots are to be played, which are stored, which groups a batch
takes.

Pure state without sockets, clocks or disk. A group is admitted as a whole; its slots are leased, fail and are leased
again; once every slot is stored it waits for a cut. Groups are never trained partial: a group of which a slot failed
too often, or can't be trained at all, is dropped whole.

    admit -> take_slot -> accept -> store        one slot's way, in this order
                       -> fail | return_slot     leased again, or the group is dropped
    cut                                          the groups of one batch, lowest (admitted version, group id) first
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from lamer.common.records import Task
from lamer.learner.gateway.admission import Admission
from lamer.learner.journal.entries import RestoredGroup, TrialEntry


@dataclass(slots=True)
class Group:
    """The trials of one task.

    admitted_version: a lower bound for the version of every token in it. is_started: whether a slot was ever leased.
    """

    group_id: int
    admitted_version: int
    task: Task
    is_started: bool = False
    trials: dict[int, TrialEntry] = field(default_factory=dict)
    accepted: set[int] = field(default_factory=set)
    failures: dict[int, int] = field(default_factory=dict)

    @property
    def oldest_version(self) -> int:
        """The lowest policy version that generated a token of a stored trial."""
        return min(entry.oldest_version for entry in self.trials.values())


class Acceptance(enum.Enum):
    """What becomes of a trial that arrived: it is stored, it was stored before, or its group is gone."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Cut:
    """Groups of one batch (none: not enough yet) and groups found too old for it, which left the table as well."""

    groups: tuple[Group, ...]
    stale: tuple[Group, ...]


class GroupTable:
    """Every group that is neither trained nor dropped. make_task: the task of a group by its ordinal."""

    def __init__(
        self,
        admission: Admission,
        group_size: int,
        slot_retries: int,
        drops_stale: bool,
        make_task: Callable[[int], Task],
    ) -> None:
        self._admission = admission
        self._group_size = group_size
        self._slot_retries = slot_retries
        self._drops_stale = drops_stale
        self._make_task = make_task
        self._groups: dict[int, Group] = {}
        self._waiting: deque[tuple[int, int]] = deque()
        self._trained: set[int] = set()
        self._forgotten = 0
        self._next_id = 0

    @property
    def admitted(self) -> int:
        """Groups trained, waiting or being played."""
        return self._forgotten + len(self._trained) + len(self._groups)

    @property
    def complete(self) -> int:
        """Groups that wait for a cut."""
        return sum(self._is_complete(group) for group in self._groups.values())

    def _is_complete(self, group: Group) -> bool:
        return len(group.trials) == self._group_size

    def get(self, group_id: int) -> Group | None:
        """A group that is neither trained nor dropped."""
        return self._groups.get(group_id)

    def restore(
        self,
        groups: Iterable[RestoredGroup],
        trained: Collection[int],
        next_id: int,
        leased: Collection[tuple[int, int]],
        updates: int = 0,
    ) -> None:
        """Begin again from what the journal holds.

        Args:
            groups: neither trained nor dropped.
            trained: ids of those that were.
            next_id: of the next one.
            leased: (group id, slot) that actors are playing at this moment.
            updates: that have been trained. A journal that was repaired may not know the groups of all of them; they
                count as admitted all the same.
        """
        started = {group_id for group_id, _ in leased}
        self._groups.clear()
        self._waiting.clear()
        self._trained = set(trained)
        self._forgotten = max(0, updates * self._admission.groups - len(self._trained))
        self._next_id = next_id
        for restored in sorted(groups, key=lambda group: group.group_id):
            trials = {entry.slot: entry for entry in restored.trials}
            group = Group(
                group_id=restored.group_id,
                admitted_version=restored.admitted_version,
                task=self._make_task(restored.group_id),
                is_started=bool(trials) or restored.group_id in started,
                trials=trials,
                accepted=set(trials),
            )
            self._groups[group.group_id] = group
            slots = (slot for slot in range(self._group_size) if slot not in trials)
            self._waiting.extend((group.group_id, slot) for slot in slots if (group.group_id, slot) not in leased)

    def admit(self, applied: int) -> Group | None:
        """A new group, all of whose slots wait to be leased; None while the staleness bound forbids one."""
        if not self._admission.may_admit(self.admitted, applied):
            return None
        group = Group(self._next_id, applied, self._make_task(self._next_id))
        self._next_id += 1
        self._groups[group.group_id] = group
        self._waiting.extend((group.group_id, slot) for slot in range(self._group_size))
        return group

    def take_slot(self, applied: int) -> tuple[Group, int] | None:
        """The next slot to lease while servers hold `applied`, of the oldest groups first; None when there is none.

        A run that goes back to a checkpoint may have admitted more groups than `applied` allows. Those beyond wait for
        their place: played now, they would be too old when their turn to be trained comes.
        """
        beyond = self._beyond(applied)
        passed: list[tuple[int, int]] = []
        taken: tuple[Group, int] | None = None
        while self._waiting and taken is None:
            group_id, slot = self._waiting.popleft()
            group = self._groups.get(group_id)
            if group is None or slot in group.accepted:
                continue
            if group_id in beyond:
                passed.append((group_id, slot))
            else:
                taken = group, slot
        self._waiting.extendleft(reversed(passed))
        if taken is not None and not taken[0].is_started:
            taken[0].is_started = True
            taken[0].admitted_version = applied
        return taken

    def _beyond(self, applied: int) -> frozenset[int]:
        """As many groups as are too many for `applied`: those not started before the others, then the newest."""
        excess = self.admitted - self._admission.most_admitted(applied)
        if excess <= 0:
            return frozenset()
        ordered = sorted(self._groups.values(), key=lambda group: (not group.is_started, *_age_order(group)))
        return frozenset(group.group_id for group in ordered[-excess:])

    def return_slot(self, group_id: int, slot: int) -> None:
        """Lease this slot again, ahead of all others: it was not played, and nobody is to blame."""
        self._waiting.appendleft((group_id, slot))

    def fail(self, group_id: int, slot: int) -> bool:
        """Count a failed attempt and lease the slot again; False when it failed too often and its group must go."""
        group = self._groups.get(group_id)
        if group is None or slot in group.accepted:
            return True
        group.failures[slot] = group.failures.get(slot, 0) + 1
        if group.failures[slot] > self._slot_retries:
            return False
        self.return_slot(group_id, slot)
        return True

    def accept(self, group_id: int, slot: int) -> Acceptance:
        """Decide about a trial that arrived; NEW obliges the caller to `store` it once it is on disk."""
        group = self._groups.get(group_id)
        if group is None:
            return Acceptance.DUPLICATE if group_id in self._trained else Acceptance.LATE
        if slot in group.accepted:
            return Acceptance.DUPLICATE
        group.accepted.add(slot)
        return Acceptance.NEW

    def store(self, entry: TrialEntry) -> None:
        """Note that a trial is on disk. Its group may have been dropped meanwhile."""
        group = self._groups.get(entry.group_id)
        if group is not None:
            group.trials[entry.slot] = entry

    def drop(self, group_id: int) -> Group | None:
        """Give a group up, which makes room to admit another; None if it is gone already."""
        return self._groups.pop(group_id, None)

    def cut(self, trained_from: int) -> Cut:
        """Take the groups of the next batch, for a trainer that holds version `trained_from`.

        Complete groups leave in the order (admitted version, group id). No batch comes while too few are complete, or
        while it would pass over an incomplete group so that some group left behind comes too late.
        """
        ordered = sorted(self._groups.values(), key=_age_order)
        stale = tuple(group for group in ordered if self._is_stale(group, trained_from))
        for group in stale:
            del self._groups[group.group_id]
        batch = [group for group in ordered if self._is_complete(group) and group.group_id in self._groups]
        batch = batch[: self._admission.groups]
        if len(batch) < self._admission.groups or self._must_wait(ordered, batch, trained_from):
            return Cut((), stale)
        for group in batch:
            del self._groups[group.group_id]
            self._trained.add(group.group_id)
        return Cut(tuple(batch), stale)

    def _is_stale(self, group: Group, trained_from: int) -> bool:
        return (
            self._drops_stale
            and self._is_complete(group)
            and self._admission.is_stale(group.oldest_version, trained_from)
        )

    def _must_wait(self, ordered: Sequence[Group], batch: Sequence[Group], trained_from: int) -> bool:
        """Whether cutting `batch` would make groups left behind too old. One that is not started holds no token yet."""
        taken = {group.group_id for group in batch}
        left = [
            group
            for group in ordered
            if group.is_started and group.group_id in self._groups and group.group_id not in taken
        ]
        passes_over = any(_age_order(group) < _age_order(batch[-1]) for group in left)
        return passes_over and self._admission.would_be_late((g.admitted_version for g in left), trained_from)


def _age_order(group: Group) -> tuple[int, int]:
    return group.admitted_version, group.group_id
