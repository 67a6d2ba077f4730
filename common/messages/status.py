"""How a run is going, as an observer gets it."""

from __future__ import annotations

import enum

from lamer.common.messages.base import Message
from lamer.common.records import Int64


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
    update: Int64
    updates: Int64
    pass_at: tuple[float, ...]
    trials: Int64
    trials_per_second: float
    tokens_per_second: float
    in_flight: Int64
    staleness_mean: float
    staleness_max: Int64
    weight_age: float
    policy_version: Int64
    actors: Int64
    servers: Int64
    dropped: Int64
    evaluated: Int64
    evaluations: Int64
    seconds: float
    mlflow_url: str = ""
