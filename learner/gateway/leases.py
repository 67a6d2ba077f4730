"""Which trial is being played by whom, and until when. No sockets and no clock: time is handed in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lamer.common.messages import Lease
from lamer.common.records import Purpose


@dataclass(frozen=True, slots=True)
class GrantedLease:
    """A lease in an actor's hands. holder: the actor's key in `learner.gateway.peers`. deadline: by the gateway's
    hearing (`learner.gateway.hearing`).
    """

    lease: Lease
    holder: str
    deadline: float


class LeaseTable:
    """All leases that are out. A trial has one holder at most: a lease to another actor replaces the first."""

    def __init__(self) -> None:
        self._granted: dict[str, GrantedLease] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._granted)

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._granted

    def grant(self, lease: Lease, holder: str, now: float) -> None:
        """Note that `holder` plays the lease's trial for `lease.seconds` from `now`."""
        self.release(lease.trial_id)
        self._granted[lease.trial_id] = GrantedLease(lease, holder, now + lease.seconds)
        self._counts[holder] += 1

    def release(self, trial_id: str) -> GrantedLease | None:
        """Take a lease back; None if it is not out."""
        granted = self._granted.pop(trial_id, None)
        if granted is not None:
            self._counts[granted.holder] -= 1
        return granted

    def held_by(self, holder: str) -> int:
        """How many leases an actor holds."""
        return self._counts[holder]

    def of(self, holder: str) -> tuple[Lease, ...]:
        """The leases that an actor holds."""
        return tuple(granted.lease for granted in self._granted.values() if granted.holder == holder)

    def training_slots(self) -> frozenset[tuple[int, int]]:
        """(group id, slot) of every training trial that is being played."""
        leases = (granted.lease for granted in self._granted.values())
        return frozenset((lease.group_id, lease.slot) for lease in leases if lease.purpose is Purpose.TRAIN)

    def release_all(self, holder: str) -> tuple[Lease, ...]:
        """Take back all leases of an actor that left or died."""
        leases = self.of(holder)
        for lease in leases:
            self.release(lease.trial_id)
        del self._counts[holder]
        return leases

    def expire(self, now: float) -> tuple[Lease, ...]:
        """Take back all leases whose deadline has passed."""
        late = tuple(granted.lease for granted in self._granted.values() if granted.deadline <= now)
        for lease in late:
            self.release(lease.trial_id)
        return late
