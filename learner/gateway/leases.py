"""Which trial is being played by whom, and until when. No sockets and no clock: time is handed in.

A trial's *holder* is whom it was leased to last. It stays so after the lease has ended, and after the gateway was
started again (the journal has it), until somebody else gets a lease for the same trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lamer.common.messages import Lease
from lamer.common.records import Purpose


@dataclass(frozen=True, slots=True)
class GrantedLease:
    """A lease in an actor's hands. holder: the actor's key in `learner.gateway.peers`. deadline: by the gateway's
    hearing (`learner.gateway.hearing`). since: when it was given, by the same clock. is_restored: it was given by an
    earlier gateway of the run, and waits for its holder to come back.
    """

    lease: Lease
    holder: str
    deadline: float
    since: float = 0.0
    is_restored: bool = False


class LeaseTable:
    """All leases that are out. A trial has one holder at most: a lease to another actor replaces the first."""

    def __init__(self) -> None:
        self._granted: dict[str, GrantedLease] = {}
        self._counts: Counter[str] = Counter()
        self._holders: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._granted)

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._granted

    def grant(self, lease: Lease, holder: str, now: float) -> None:
        """Note that `holder` plays the lease's trial for `lease.seconds` from `now`."""
        self._put(GrantedLease(lease, holder, now + lease.seconds, now))

    def grant_again(self, lease: Lease, holder: str, now: float, seconds: float) -> None:
        """Keep a lease of an earlier gateway for its holder, which has `seconds` to come back."""
        self._put(GrantedLease(lease, holder, now + seconds, now, is_restored=True))

    def renew(self, holder: str, now: float) -> None:
        """A holder came back: the leases that were kept for it run from now on."""
        for granted in self._of(holder):
            if granted.is_restored:
                self.grant(granted.lease, holder, now)

    def restore(self, holders: Mapping[str, str]) -> None:
        """Know the holders again that an earlier gateway of this run journalled, by trial id."""
        self._holders.update(holders)

    def holder(self, trial_id: str) -> str | None:
        """Whom a trial was leased to last, None if it never was."""
        return self._holders.get(trial_id)

    def _put(self, granted: GrantedLease) -> None:
        trial_id = granted.lease.trial_id
        self.release(trial_id)
        self._granted[trial_id] = granted
        self._counts[granted.holder] += 1
        self._holders[trial_id] = granted.holder

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
        return tuple(granted.lease for granted in self._of(holder))

    def _of(self, holder: str) -> tuple[GrantedLease, ...]:
        return tuple(granted for granted in self._granted.values() if granted.holder == holder)

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

    def expire(self, now: float) -> tuple[GrantedLease, ...]:
        """Take back all leases whose deadline has passed."""
        late = tuple(granted for granted in self._granted.values() if granted.deadline <= now)
        for granted in late:
            self.release(granted.lease.trial_id)
        return late
