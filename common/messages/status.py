"""How a run is going, as an observer gets it."""

from __future__ import annotations

import enum

from lamer.common.messages.base import Message


class Phase(enum.StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    EVALUATING = "evaluating"
    TRAINING = "training"
    DONE = "done"
    FAILED = "failed"


class StatusRequest(Message, frozen=True):
    """An observer asks how the run is."""


class Status(Message, frozen=True):
    """How the run is: what the live panel shows. Rates are over the last ten seconds.

    pass_at: pass@1, pass@2, ... of the trials of the last update. weight_age: seconds since the servers last changed
    weights.
    """

    run: str
    phase: Phase
    update: int
    updates: int
    pass_at: tuple[float, ...]
    trials: int
    trials_per_second: float
    tokens_per_second: float
    in_flight: int
    staleness_mean: float
    staleness_max: int
    weight_age: float
    policy_version: int
    actors: int
    servers: int
    dropped: int
    evaluated: int
    evaluations: int
    seconds: float
    mlflow_url: str = ""
