"""Trajectory diversity (the paper's Fig. 1 and 3): how differently a policy plays one task when it plays it again.

A trajectory is the sequence of states and actions of an episode, or of a whole trial. The trajectories of a task that
are identical form a group; the entropy of the distribution over these groups is the task's diversity. It is the
plug-in estimate of the empirical distribution: at most ln(rollouts), so only figures of equally many rollouts compare.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lamer.common.records import Episode
from lamer.learner.measuring.intervals import Interval, bootstrap_intervals

_DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class Diversity:
    """Mean over tasks.

    nats: entropy of the distribution over identical trajectories. interval: 95%, bootstrap over tasks. distinct: how
    many different trajectories. tasks: those with at least two rollouts, which alone count. rollouts: mean of them.
    """

    nats: float
    interval: Interval
    distinct: float
    tasks: int
    rollouts: float


def entropy(values: Iterable[str]) -> float:
    """Entropy in nats of the empirical distribution of `values`; 0 for none."""
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values()) + 0.0


def trajectory(episode: Episode) -> str:
    """A key that two episodes share if and only if they went through the same states by the same actions.

    A state is the environment's anchor state; every response without an action is the same action. Rewards and wording
    don't count. (The key is a digest of 96 bits.)
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for turn in episode.turns:
        for part in (turn.anchor_state, "" if turn.action is None else f"={turn.action}"):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def diversity(rollouts: Sequence[Sequence[str]]) -> Diversity | None:
    """The diversity of trajectory keys [tasks][rollouts]; None where no task has two rollouts.

    Of ("a", "a", "b", "b") and ("a", "a", "a", "a"): (ln 2 + 0) / 2.
    """
    repeated = [keys for keys in rollouts if len(keys) >= 2]
    if not repeated:
        return None
    nats = np.array([[entropy(keys)] for keys in repeated])
    (interval,) = bootstrap_intervals(nats)
    return Diversity(
        nats=float(nats.mean()),
        interval=interval,
        distinct=sum(len(set(keys)) for keys in repeated) / len(repeated),
        tasks=len(repeated),
        rollouts=sum(map(len, repeated)) / len(repeated),
    )
