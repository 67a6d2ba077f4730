"""Cross-episode returns of one trial (paper Eq. 3 and 4, and the reference's recursion). No torch.

    g_t^(n) = sum_{l>=t} step_discount^(l-t) * r_l^(n)                          Eq. 3, within episode n
    G_t^(n) = g_t^(n) + sum_{m>n} trial_discount^(m-n) * g_0^(m)                Eq. 4, form "paper"

Form "reference" is what the authors' code computes: walking backwards over the steps of the whole trial, R = r +
step_discount * R inside an episode and R = r + trial_discount * R at its last step. It multiplies the credit from
later episodes by the step discount as well, once for every step that is left in the episode; Eq. 4 does not.

A reflection is credited with G_0 of the episode that follows it ("trained using the reward obtained in the next
episode"), undiscounted and whatever `trial_discount` is: with 0 every episode stands for itself and a reflection
still answers for the one it prepares.

Worked example: step_discount 0.95, trial_discount 0.6, episodes of 3, 2 and 2 steps, only the last reward is 10;
| stands before and after a reflection:

    paper       3.42, 3.42, 3.42   | 5.7   | 5.7, 5.7   | 9.5 | 9.5, 10
    reference   2.932, 3.087, 3.249 | 5.415 | 5.415, 5.7 | 9.5 | 9.5, 10
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lamer.common.records import Trial

Rewards: TypeAlias = Sequence[Sequence[float]]
Returns: TypeAlias = tuple[tuple[float, ...], ...]
Form: TypeAlias = Literal["paper", "reference"]


@dataclass(frozen=True, slots=True)
class TrialReturns:
    """The return of every response of a trial that has one.

    turns[n][t]: of turn t of episode n. reflections[n]: of the reflection between episodes n and n + 1; one after the
    last episode has no entry, because no outcome followed that it could answer for.
    """

    turns: Returns
    reflections: tuple[float, ...]


def discounted_sums(
    rewards: Sequence[float], discount: float, after: float = 0.0, after_discount: float = 0.0
) -> list[float]:
    """R_t = r_t + discount * R_(t+1), whose last step is followed by `after` at `after_discount`.

    Args:
        rewards: r_0 .. r_(T-1).
        discount: between two steps.
        after: what follows the last step.
        after_discount: between the last step and `after`.
    """
    total, factor = after, after_discount
    sums: list[float] = []
    for reward in reversed(rewards):
        total = reward + factor * total
        factor = discount
        sums.append(total)
    return sums[::-1]


def paper_returns(rewards: Rewards, step_discount: float, trial_discount: float) -> Returns:
    """Eq. 4: the episode's own discounted return plus that of later episodes, which is the same at every step."""
    later = 0.0
    returns: list[tuple[float, ...]] = []
    for episode in reversed(rewards):
        own = discounted_sums(episode, step_discount)
        returns.append(tuple(value + later for value in own))
        later = trial_discount * ((own[0] if own else 0.0) + later)
    return tuple(reversed(returns))


def reference_returns(rewards: Rewards, step_discount: float, trial_discount: float) -> Returns:
    """The reference's recursion: credit from later episodes decays with the steps left in this one."""
    following = 0.0
    returns: list[tuple[float, ...]] = []
    for episode in reversed(rewards):
        own = discounted_sums(episode, step_discount, following, trial_discount)
        following = own[0] if own else following
        returns.append(tuple(own))
    return tuple(reversed(returns))


def cross_episode_returns(rewards: Rewards, form: Form, step_discount: float, trial_discount: float) -> Returns:
    """Returns of every step: rewards[n][t] -> returns[n][t]."""
    if form == "paper":
        return paper_returns(rewards, step_discount, trial_discount)
    return reference_returns(rewards, step_discount, trial_discount)


def trial_returns(trial: Trial, form: Form, step_discount: float, trial_discount: float) -> TrialReturns:
    """The returns of a trial's turns and reflections, from the rewards in its record."""
    rewards = [[turn.reward for turn in episode.turns] for episode in trial.episodes]
    turns = cross_episode_returns(rewards, form, step_discount, trial_discount)
    followed = min(len(trial.reflections), len(trial.episodes) - 1)
    return TrialReturns(turns, tuple(turns[n + 1][0] for n in range(followed)))
