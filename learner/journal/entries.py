"""What the journal keeps of a trial beside its body, and of a group: what passes between it and the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.records import Purpose, evaluated_version


@dataclass(frozen=True, slots=True)
class TrialEntry:
    """A journalled trial without its body."""

    trial_id: str
    group_id: int
    slot: int
    purpose: Purpose
    oldest_version: int
    response_tokens: int
    solved_at: int | None

    @property
    def evaluated_version(self) -> int | None:
        """The policy version that an evaluation's trial measures; None in training."""
        return evaluated_version(self.purpose, self.slot)


@dataclass(frozen=True, slots=True)
class Drop:
    """One trial of a dropped group. outcome: "solved", "unsolved" or how it failed."""

    group_id: int
    trial_id: str
    reason: str
    outcome: str
    response_tokens: int
    trained_from: int


@dataclass(frozen=True, slots=True)
class DroppedCount:
    """Groups dropped for one reason, and the trials in them: how many were played, how many of those were solved."""

    reason: str
    groups: int
    trials: int
    solved: int


@dataclass(frozen=True, slots=True)
class RestoredGroup:
    """A group as the journal remembers it: with the trials stored before."""

    group_id: int
    admitted_version: int
    trials: tuple[TrialEntry, ...]


@dataclass(frozen=True, slots=True)
class JournalState:
    """What a run begins again from: groups neither trained nor dropped, ids of those trained, the next group's id.

    trials, response_tokens: of all training trials that were ever stored. drops: groups dropped, by reason.
    """

    groups: tuple[RestoredGroup, ...]
    trained: frozenset[int]
    next_group_id: int
    trials: int = 0
    response_tokens: int = 0
    drops: tuple[DroppedCount, ...] = ()
