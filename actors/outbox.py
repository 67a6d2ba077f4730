"""Finished trials that the gateway has not acknowledged: kept in memory, and sent again until it has.

No sockets and no clock: time is handed in. The gateway's credit bounds it; while it is full no new trial is started.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.messages import TrialDone

RESEND_SECONDS = 15.0
"""How long to wait for an acknowledgement: far more than a commit takes, since a needless resend is waste."""
RETRY_SECONDS = 2.0
"""How long to wait when the gateway asks for a trial again."""


@dataclass(slots=True)
class Unacknowledged:
    """A finished trial, and the time at which it is sent again."""

    message: TrialDone
    due: float


class Outbox:
    """Unacknowledged trials by trial_id. credit_trials, credit_bytes: from `Welcome`, set anew with every one."""

    def __init__(self, credit_trials: int, credit_bytes: int) -> None:
        self.credit_trials = credit_trials
        self.credit_bytes = credit_bytes
        self._waiting: dict[str, Unacknowledged] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._waiting

    @property
    def is_full(self) -> bool:
        """Whether another finished trial would be more than the gateway allows."""
        return len(self) >= self.credit_trials or self._bytes >= self.credit_bytes

    def add(self, message: TrialDone, now: float) -> None:
        """Keep a trial that is being sent."""
        self.remove(message.trial_id)
        self._waiting[message.trial_id] = Unacknowledged(message, now + RESEND_SECONDS)
        self._bytes += len(message.body)

    def remove(self, trial_id: str) -> bool:
        """Forget a trial that was acknowledged or refused for good; whether it was here."""
        entry = self._waiting.pop(trial_id, None)
        if entry is not None:
            self._bytes -= len(entry.message.body)
        return entry is not None

    def set_due(self, trial_id: str, due: float) -> None:
        """Send a trial again at `due`, if it is here."""
        if trial_id in self._waiting:
            self._waiting[trial_id].due = due

    def set_all_due(self, now: float) -> None:
        """Send every trial again: what was on its way when a connection broke may be lost."""
        for entry in self._waiting.values():
            entry.due = now

    def take_due(self, now: float) -> tuple[TrialDone, ...]:
        """The trials to be sent at `now`; each comes up again `RESEND_SECONDS` later."""
        due = [entry for entry in self._waiting.values() if entry.due <= now]
        for entry in due:
            entry.due = now + RESEND_SECONDS
        return tuple(entry.message for entry in due)

    def next_due(self) -> float | None:
        """When the next trial is to be sent again, None while all are acknowledged."""
        return min((entry.due for entry in self._waiting.values()), default=None)
