"""Exact pass@k of three ways to play doors, computed over the number of doors still possible.

Doors still possible always form an interval, and only its length matters: opening its i-th door finds the prize with
chance 1 / length, and otherwise leaves the i - 1 doors to the left or those to the right.
"""

from __future__ import annotations

import functools
from fractions import Fraction

from lamer.envs.base import Reference


@functools.cache
def _best_found(length: int, openings: int) -> tuple[int, ...]:
    """Of `length` prize positions, how many the best policy has found after 1..openings openings.

    Best: the most found in the end, and among equals the most found one opening earlier, and so on.
    """
    if openings == 0:
        return ()
    if length == 0:
        return (0,) * openings
    outcomes = []
    for left in range(length):
        lower = (0, *_best_found(left, openings - 1))
        upper = (0, *_best_found(length - 1 - left, openings - 1))
        outcomes.append(tuple(1 + below + above for below, above in zip(lower, upper, strict=True)))
    return max(outcomes, key=lambda found: found[::-1])


@functools.cache
def _random_solved(length: int, openings: int) -> Fraction:
    """Chance to find the prize within `openings` openings, each a possible door drawn uniformly."""
    if length == 0 or openings == 0:
        return Fraction(0)
    found = Fraction(0)
    for left in range(length):
        right = length - 1 - left
        found += 1 + left * _random_solved(left, openings - 1) + right * _random_solved(right, openings - 1)
    return found / length**2


def doors_references(doors: int, episodes: int) -> tuple[Reference, ...]:
    """pass@1..episodes of the best policy, of possible doors at random, and of guesses that ignore the hints."""
    counts = range(1, episodes + 1)
    miss = 1 - Fraction(1, doors)
    return (
        Reference("best policy", tuple(found / doors for found in _best_found(doors, episodes))),
        Reference("possible doors at random", tuple(float(_random_solved(doors, k)) for k in counts)),
        Reference("independent guesses", tuple(float(1 - miss**k) for k in counts)),
    )
