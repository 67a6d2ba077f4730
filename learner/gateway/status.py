"""How a run is going: rates over the last ten seconds, what was dropped and why, and the age of what is trained."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.common.messages import Metric
from lamer.learner.journal.entries import DroppedCount, TrialEntry
from lamer.learner.measuring.counting import pass_at

WINDOW_SECONDS = 10.0


class RateWindow:
    """Trials and response tokens over the last `WINDOW_SECONDS`; a younger run's rates are over its own age."""

    def __init__(self, now: float) -> None:
        self._start = now
        self._arrivals: deque[tuple[float, int]] = deque()

    def add(self, now: float, tokens: int) -> None:
        """Note one trial."""
        self._arrivals.append((now, tokens))
        self._forget(now)

    def rates(self, now: float) -> tuple[float, float]:
        """(trials, response tokens) a second."""
        self._forget(now)
        seconds = max(min(WINDOW_SECONDS, now - self._start), 1e-3)
        return len(self._arrivals) / seconds, sum(tokens for _, tokens in self._arrivals) / seconds

    def _forget(self, now: float) -> None:
        while self._arrivals and self._arrivals[0][0] < now - WINDOW_SECONDS:
            self._arrivals.popleft()


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """What one cut took. ages: of its trials in updates, ascending. solved_at: the episode that solved each."""

    ages: tuple[int, ...] = ()
    solved_at: tuple[int | None, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[TrialEntry], trained_from: int) -> BatchFigures:
        """The figures of a batch trained from version `trained_from`."""
        ages = sorted(trained_from - entry.oldest_version for entry in entries)
        return cls(tuple(ages), tuple(entry.solved_at for entry in entries))

    @property
    def age_mean(self) -> float:
        """Mean age of the trials in updates."""
        return sum(self.ages) / max(len(self.ages), 1)

    @property
    def age_max(self) -> int:
        """Age of the oldest trial in updates."""
        return max(self.ages, default=0)

    def metrics(self, episodes: int) -> tuple[Metric, ...]:
        """Staleness quantiles and histogram, and pass@k of the training trials."""
        quantiles = [
            (q, self.ages[min(int(q / 100 * len(self.ages)), len(self.ages) - 1)]) for q in (50, 90) if self.ages
        ]
        histogram = sorted(Counter(self.ages).items())
        return (
            Metric("staleness/mean", self.age_mean),
            Metric("staleness/max", float(self.age_max)),
            *(Metric(f"staleness/p{q}", float(age)) for q, age in quantiles),
            *(Metric(f"staleness/share_{age}", count / len(self.ages)) for age, count in histogram),
            *(Metric(f"train/pass_at_{k + 1}", share) for k, share in enumerate(pass_at(self.solved_at, episodes))),
        )


class DropCounts:
    """Dropped groups by reason, and what became of the trials in them: dropping slow trials drops the unsolved ones."""

    def __init__(self) -> None:
        self.groups: Counter[str] = Counter()
        self.trials = 0
        self.solved = 0
        self.in_a_row = 0

    def restore(self, drops: Sequence[DroppedCount]) -> None:
        """Count on from what the journal of a resumed run holds."""
        for drop in drops:
            self.groups[drop.reason] = drop.groups
            self.trials += drop.trials
            self.solved += drop.solved

    def add(self, reason: str, trials: int, solved: int) -> None:
        """Count one dropped group of which `trials` were played, `solved` of them solved."""
        self.groups[reason] += 1
        self.trials += trials
        self.solved += solved
        self.in_a_row += 1

    def metrics(self) -> tuple[Metric, ...]:
        """Dropped groups: in all and by reason, since the run started."""
        by_reason = (Metric(f"drops/{reason}", float(count)) for reason, count in sorted(self.groups.items()))
        return (Metric("drops/groups", float(self.groups.total())), *by_reason)
