"""How old a trial may be: the arithmetic of staleness, without sockets, clocks or state.

A trial's age is the version being trained from minus the version of its oldest token. A group admitted while version
`a` is applied holds no token older than `a`, so it must be trained from version a + S at the latest, S the largest
staleness: admission gives it a place, and every cut keeps that place.

*Admission.* With G groups a batch, at most (a + 1 + S) * G groups are admitted while `a` is applied. v * G of them are
trained before the cut at version v, so those left fill the cuts v ... a + S and no more.

*Cut.* A cut takes the lowest admitted versions first. Groups finish out of order, and every newer group that leaves
before an older one costs the older one its place: with S = 2 and G = 1, groups 0, 1, 2 admitted at version 0 and
group 3 at version 1, the cuts {2}, {3}, {0} leave group 1 to be trained from version 3. So a cut waits for older
groups whenever those left behind would no longer fit into the batches to come (`would_be_late`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    """The bound of a run. groups: in one batch. updates: in the whole run, beyond which nothing is admitted."""

    groups: int
    max_staleness: int
    updates: int

    def may_admit(self, admitted: int, applied: int) -> bool:
        """Whether one more group may be leased.

        admitted: groups trained, waiting or being played, without those dropped. applied: the lowest policy version
        among the ready servers.
        """
        return admitted < self.most_admitted(applied)

    def most_admitted(self, applied: int) -> int:
        """How many groups may be admitted while `applied` is the lowest version among the ready servers."""
        return min(applied + 1 + self.max_staleness, self.updates) * self.groups

    def may_lease(self, applied: int, trained_from: int) -> bool:
        """Whether a slot may be played on servers that hold `applied` while the trainer holds `trained_from`.

        With max_staleness 0 both must be equal. Servers are ahead of a trainer that went back to a checkpoint until
        they have gone back as well.
        """
        return trained_from - self.max_staleness <= applied <= trained_from

    def would_be_late(self, left: Iterable[int], trained_from: int) -> bool:
        """Whether groups left behind by a cut at `trained_from` could not all be trained in time.

        left: their admitted versions. In order of age, the i-th of them is trained from version
        trained_from + 1 + i // groups at the earliest.
        """
        return any(
            trained_from + 1 + place // self.groups > admitted_version + self.max_staleness
            for place, admitted_version in enumerate(sorted(left))
        )

    def is_stale(self, oldest_version: int, trained_from: int) -> bool:
        """Whether a group whose oldest token is of `oldest_version` is too old to train version `trained_from`."""
        return oldest_version < trained_from - self.max_staleness
