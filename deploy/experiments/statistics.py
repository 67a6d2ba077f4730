"""Means and intervals over seeds. One seed: the interval over its tasks; several: Student's t over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom."""
NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95% interval, and the values [seeds] it is the mean of."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def mean_share(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> Estimate:
    """The mean of a share over seeds.

    Args:
        values: the share of each seed, at least one.
        intervals: (low, high) of each over its tasks; used for a single seed, else not.

    Of .8, .9 and 1 the mean is .9 and the interval .9 +- 4.303 * .1 / sqrt(3), cut at 1.
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        low, high = intervals[0] if intervals else (mean, mean)
        return Estimate(mean, low, high, tuple(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    quantile = T_95[len(values) - 2] if len(values) - 2 < len(T_95) else NORMAL_95
    half = quantile * math.sqrt(variance / len(values))
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), tuple(values))
