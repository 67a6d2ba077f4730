"""The evaluation under way: which plays are still to be leased, which are on disk, which were given up."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable

from lamer.common.records import Trial
from lamer.learner.gateway.groups import Acceptance
from lamer.learner.measuring.counting import Measured, measure, summarise
from lamer.learner.measuring.evaluation import EvaluationPlan, EvaluationResult


class OpenEvaluation:
    """One evaluation under way: plays are leased in order, and again when their trial failed, a bounded number of
    times.

    finished: set when every play's trial is on disk or given up, or when the evaluation was abandoned.
    """

    def __init__(self, plan: EvaluationPlan, slot_retries: int) -> None:
        self.plan = plan
        self.is_abandoned = False
        self._slot_retries = slot_retries
        self._waiting = deque(range(plan.plays))
        self._failures: Counter[int] = Counter()
        self._measured: dict[int, Measured] = {}
        self._failed: set[int] = set()
        self._stored: set[int] = set()
        self.finished = asyncio.Event()

    @property
    def done(self) -> int:
        """How many plays are finished."""
        return len(self._stored) + len(self._failed)

    def take(self) -> int | None:
        """The next play to lease, None when none is left."""
        while self._waiting:
            play = self._waiting.popleft()
            if not self._is_settled(play):
                return play
        return None

    def give_back(self, play: int) -> None:
        """Lease a play again that was not played."""
        self._waiting.appendleft(play)

    def fail(self, play: int) -> None:
        """Count a failed attempt: the play is leased again, or left out after too many."""
        if self._is_settled(play):
            return
        self._failures[play] += 1
        if self._failures[play] > self._slot_retries:
            self._failed.add(play)
            self._check_finished()
        else:
            self._waiting.append(play)

    def accept(self, play: int, trial: Trial) -> Acceptance:
        """Count a trial that arrived, unless it is known; NEW obliges the caller to `store` it once it is on disk."""
        if play >= self.plan.plays or play in self._failed:
            return Acceptance.LATE
        if play in self._measured:
            return Acceptance.DUPLICATE
        self._measured[play] = measure(trial)
        return Acceptance.NEW

    def store(self, play: int) -> None:
        """Note that a play's trial is on disk."""
        self._stored.add(play)
        self._check_finished()

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take the trials that an earlier gateway of this run had stored."""
        for trial in trials:
            if self.accept(trial.group_id, trial) is Acceptance.NEW:
                self.store(trial.group_id)

    def abandon(self) -> None:
        """Nobody wants its result any more: its policy version is no longer the run's."""
        self.is_abandoned = True
        self.finished.set()

    def result(self, seconds: float) -> EvaluationResult:
        """What was measured over all plays that were played out."""
        return summarise(self.plan, self._measured, self._failed, seconds)

    def _check_finished(self) -> None:
        if self.done == self.plan.plays:
            self.finished.set()

    def _is_settled(self, play: int) -> bool:
        return play in self._measured or play in self._failed
