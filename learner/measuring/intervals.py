"""Confidence intervals: `wilson_interval` of a share of independent trials, `bootstrap_intervals` of means over tasks.

Several rounds of one task are no independent draws, so the bootstrap draws tasks again, and never single trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lamer.common.errors import BadInput

Values = npt.NDArray[np.float64]

BOOTSTRAP_DRAWS = 2_000
_BOOTSTRAP_SEED = 20_061_111
_DRAWS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval: low <= high."""

    low: float
    high: float


def wilson_interval(solved: int, n: int, z: float = 1.959964) -> Interval:
    """Wilson's score interval of the share solved / n (Wilson, 1927); z 1.96 gives 95%.

    Of 9 solved in 10, .596 .. .982. Unlike the normal approximation it keeps within 0 .. 1, and has a width at 0 and 1.
    """
    if not 0 <= solved <= n or n < 1:
        raise BadInput(f"a share needs 0 <= solved <= n and n >= 1, got {solved} of {n}")
    share = solved / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_intervals(values: Values, draws: int = BOOTSTRAP_DRAWS, level: float = 0.95) -> tuple[Interval, ...]:
    """Percentile bootstrap intervals of column means (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13).

    values: [tasks, columns], what each task contributes to each figure. A draw takes as many tasks with replacement as
    there are; the interval lies between the quantiles of the draws' means. Seeded: equal values give equal intervals.
    No interval for no tasks; where all tasks agree (all solved) it has no width.

    Raises:
        BadInput: `values` is not two-dimensional.
    """
    if values.ndim != 2:
        raise BadInput(f"values must be [tasks, columns], got shape {values.shape}")
    tasks = len(values)
    if tasks == 0:
        return ()
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    parts = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        drawn = rng.integers(0, tasks, size=(min(_DRAWS_AT_ONCE, draws - start), tasks))
        parts.append(values[drawn].mean(axis=1))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(parts), (tail, 1.0 - tail), axis=0)
    return tuple(Interval(float(a), float(b)) for a, b in zip(low, high, strict=True))
