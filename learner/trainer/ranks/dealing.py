"""Which rank computes which pack: shares of about equal cost, and as many passes for every rank.

Sharded layers are gathered by all ranks at the same time, so every rank runs as many forward passes as the others.
Where packs do not come out even, a rank computes the cheapest one as well, and counts it as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PackT = TypeVar("PackT")


@dataclass(frozen=True, slots=True)
class Share(Generic[PackT]):
    """A pack that a rank computes. counts: whether it is the rank's own; if not, it only keeps the others company."""

    pack: PackT
    counts: bool


def deal(packs: Sequence[PackT], costs: Sequence[float], ranks: int) -> tuple[tuple[Share[PackT], ...], ...]:
    """The shares of every rank: each pack counts once, and all ranks get as many.

    The most expensive pack goes first, to the rank with the least so far that has a pass left (Graham, 1969, "Bounds on
    Multiprocessing Timing Anomalies", list scheduling by falling cost). Within a rank packs keep their order.

    Args:
        packs: at least one.
        costs: of each pack, in any unit.
        ranks: how many.
    """
    passes = -(-len(packs) // ranks)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for index in sorted(range(len(packs)), key=lambda one: (-costs[one], one)):
        free = [rank for rank in range(ranks) if len(dealt[rank]) < passes]
        chosen = min(free, key=lambda rank: (loads[rank], rank))
        dealt[chosen].append(index)
        loads[chosen] += costs[index]
    cheapest = min(range(len(packs)), key=lambda one: (costs[one], one))
    return tuple(
        tuple(Share(packs[index], True) for index in sorted(own))
        + tuple(Share(packs[cheapest], False) for _ in range(passes - len(own)))
        for own in dealt
    )
