"""Advantages of responses without a critic: GiGPO, GRPO, RLOO, REINFORCE++. No torch; every function is pure.

One row = one response (a turn or a reflection) of any trial of the group; all arrays are float64 [n] in the same order.

    gigpo   episode_weight * (score - mean(score)) + step_weight * (return - mean(return over rows with the same
    anchor))
            Feng et al., 2025 (GiGPO); score = undiscounted reward of the row's own episode
    grpo    (return - mean(return)) / std(return)                                Shao et al., 2024
    rloo    return - mean(return of the other rows)                              Ahmadian et al., 2024
    reinforce_pp    (return - mean(return)) / std(return), over all groups of the batch together
            Hu et al., 2025 (REINFORCE++); its variant with a group baseline is grpo with "mean" and `advantage.whiten`

Worked example: two groups of two rows, returns 4, 0 | 8, 8. grpo with "mean": 2, -2 | 0, 0. rloo: 4, -4 | 0, 0.
reinforce_pp: the mean is 5, the unbiased std 3.83: -0.26, -1.31 | 0.78, 0.78: a row of an easy task is praised for it.

PPO's advantages, from a critic, are in `learner.credit.gae`. Means and unbiased standard deviations are taken over
rows, not over trials, as in the reference. Where this differs from it:

- a reflection's score is the reward of the episode that follows it; the reference scores every reflection 0, which
  pushes reflections down whenever the group does well;
- a reflection's anchor is the state in which the following episode starts, marked as a reflection; the reference puts
  all reflections of a group under one constant;
- GRPO and RLOO use the cross-episode return of Eq. 4; in the reference the swap that was to bring it in does nothing.
  `credit.trial_discount` 0 gives each episode for itself, and `credit.step_discount` 1 its undiscounted outcome;
- no row is duplicated to fill a batch, which would bias the group's statistics.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lamer.common.settings import AdvantageSettings

FloatArray: TypeAlias = npt.NDArray[np.float64]
Normalise: TypeAlias = Literal["mean", "mean_std"]
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The responses of one group, row by row.

    rewards: undiscounted reward of the row's episode (a reflection: of the episode that follows it). returns:
    cross-episode returns. penalties: what an invalid response costs, 0 elsewhere. anchors: rows with equal ones share
    a state.
    """

    rewards: FloatArray
    returns: FloatArray
    penalties: FloatArray
    anchors: Sequence[Hashable]

    def __post_init__(self) -> None:
        lengths = {len(self.rewards), len(self.returns), len(self.penalties), len(self.anchors)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"a group's arrays need one length above 0, got {sorted(lengths)}")


def normalise(values: FloatArray, how: Normalise) -> FloatArray:
    """Values less their mean, for "mean_std" divided by their unbiased standard deviation + 1e-6.

    A single value is its own advantage (mean 0, std 1): with nothing to compare it with, its sign is all there is.
    """
    mean = values.mean() if len(values) > 1 else 0.0
    if how == "mean":
        return values - mean
    std = values.std(ddof=1) if len(values) > 1 else 1.0
    return np.asarray((values - mean) / (std + EPSILON), dtype=np.float64)


def within_anchors(returns: FloatArray, anchors: Sequence[Hashable], how: Normalise) -> FloatArray:
    """Returns normalised over the rows with an equal anchor; 0 for a row that is alone with its anchor."""
    rows: dict[Hashable, list[int]] = {}
    for row, anchor in enumerate(anchors):
        rows.setdefault(anchor, []).append(row)
    result = np.zeros_like(returns)
    for members in rows.values():
        if len(members) > 1:
            result[members] = normalise(returns[members], how)
    return result


def gigpo(
    scores: FloatArray,
    returns: FloatArray,
    anchors: Sequence[Hashable],
    episode_weight: float,
    step_weight: float,
    how: Normalise,
) -> FloatArray:
    """GiGPO: compare episodes over the group, and steps over equal states, across trials and attempts.

    Cross-episode credit enters through the step part: of two trials that differ in what they did in the same state,
    the one whose later episodes went better has the higher return there.
    """
    return episode_weight * normalise(scores, how) + step_weight * within_anchors(returns, anchors, how)


def grpo(values: FloatArray, how: Normalise) -> FloatArray:
    """GRPO: a value against its group. "mean" leaves the division out, which weighs tasks of little variance up."""
    return normalise(values, how)


def rloo(values: FloatArray) -> FloatArray:
    """RLOO: a value less the mean of the others, n / (n - 1) * (value - mean). A single value is its own advantage."""
    count = len(values)
    if count == 1:
        return values.copy()
    return np.asarray((values - values.mean()) * (count / (count - 1)), dtype=np.float64)


def reinforce_pp(values: FloatArray) -> FloatArray:
    """REINFORCE++: a value against the whole batch, (value - mean) / std."""
    return normalise(values, "mean_std")


def batch_advantages(groups: Sequence[GroupRows], settings: AdvantageSettings) -> FloatArray:
    """The advantages of all groups' responses by an estimator without a critic: float64 [n], group after group."""
    if settings.estimator == "reinforce_pp":
        return reinforce_pp(np.concatenate([group.returns - group.penalties for group in groups]))
    return np.concatenate([group_advantages(group, settings) for group in groups])


def group_advantages(group: GroupRows, settings: AdvantageSettings) -> FloatArray:
    """The advantages of one group's responses by GiGPO, GRPO or RLOO: float64 [n].

    What an invalid response costs is compared over the group whatever the weights: for GiGPO it is a term of its own
    (with `episode_weight` 1 and "mean" the same as lowering the episode's reward, as the reference does); for GRPO and
    RLOO it lowers the return.
    """
    how: Normalise = "mean_std" if settings.normalise == "mean_std" else "mean"
    if settings.estimator == "grpo":
        return grpo(group.returns - group.penalties, how)
    if settings.estimator == "rloo":
        return rloo(group.returns - group.penalties)
    parts = gigpo(group.rewards, group.returns, group.anchors, settings.episode_weight, settings.step_weight, how)
    return np.asarray(parts - (group.penalties - group.penalties.mean()), dtype=np.float64)
