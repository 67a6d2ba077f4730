"""How a run ended, and the figures that its results are read against."""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.messages import Metric
from lamer.learner.measuring.evaluation import EvaluationResult


@dataclass(frozen=True, slots=True)
class ReferenceFigure:
    """A figure to read a result against: pass_at[k] = solved within k + 1 episodes."""

    name: str
    pass_at: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: all that its summary is made of.

    exit_code: 0, or 130 when it was interrupted. trials, response_tokens: accepted for training. seconds,
    training_seconds: at work, without the time between an interruption and a resumption. counted_from: the update from
    which these count, 0 but for a run that lamer 0.1 began. drops: dropped groups by reason. dropped_trials: played
    trials in them, and how many of those had solved their task. policy_version: of the newest weights.
    """

    run: str
    exit_code: int
    updates: int
    policy_version: int
    evaluations: tuple[EvaluationResult, ...]
    references: tuple[ReferenceFigure, ...]
    warmstart: tuple[Metric, ...]
    seconds: float
    training_seconds: float
    trials: int
    response_tokens: int
    drops: tuple[Metric, ...]
    dropped_trials: int
    dropped_solved: int
    staleness_max: int
    resumed_from: int | None
    counted_from: int = 0
