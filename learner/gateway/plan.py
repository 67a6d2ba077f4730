"""What a gateway is started with and what it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lamer.common.keys import ServerKeys
from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.common.weights import ModelFingerprint
from lamer.learner.measuring.evaluation import EvaluationResult


class Tracker(Protocol):
    """Where figures go; must not block the event loop."""

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        """Take the figures of update `step`."""


@dataclass(frozen=True, slots=True)
class ReferenceFigure:
    """A figure to read a result against: pass_at[k] = solved within k + 1 episodes."""

    name: str
    pass_at: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """A run as the gateway needs it.

    env_config, evaluation_env_config: the environment's options in training and in evaluations, as canonical JSON.
    resume_step: the policy version of the checkpoint to go on from, None for a new run. fingerprint: of the model, None
    to accept any host. warmstart: figures of the warm start, which go into the result as they are.
    """

    settings: Settings
    run: str
    run_dir: Path
    model_path: str
    env_config: str
    evaluation_env_config: str
    keys: ServerKeys
    tracker: Tracker
    references: tuple[ReferenceFigure, ...] = ()
    warmstart: tuple[Metric, ...] = ()
    resume_step: int | None = None
    fingerprint: ModelFingerprint | None = None
    mlflow_url: str = ""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: all that its summary is made of.

    exit_code: 0, or 130 when it was interrupted. trials, response_tokens: accepted for training since this gateway
    started, and rates over the time in which it trained. drops: dropped groups by reason. dropped_trials: played trials
    in them, and how many of those had solved their task. policy_version: of the newest weights.
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
