"""The plain synchronous loop that asynchronous training is measured against: recorded batches in, one update each.

With max_staleness 0 a live run gives, bit for bit (float32, CPU), the parameters of this loop fed its journalled
trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lamer.common.records import Trial
from lamer.learner.trainer.update import PolicyUpdater, UpdateResult


def replay(batches: Iterable[Sequence[Trial]], updater: PolicyUpdater) -> tuple[UpdateResult, ...]:
    """Train on each batch in turn, from the version that `updater` holds.

    Raises:
        BadInput: a trial that can't be trained.
        RunFailed: a loss that is not finite.
    """
    return tuple(updater.update(updater.version + 1, trials) for trials in batches)
