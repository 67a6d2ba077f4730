"""What a gateway is started with. Its parts get sections of it, never the whole `Settings`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lamer.common.keys import ServerKeys
from lamer.common.messages import PROTOCOL_VERSION, Hello, Metric, Sampling, Welcome
from lamer.common.records import MemoryMode
from lamer.common.settings import EvaluationSettings, Settings, TrialSettings
from lamer.common.weights import ModelFingerprint
from lamer.learner.measuring.evaluation import EvaluationPlan
from lamer.learner.measuring.result import ReferenceFigure


class Tracker(Protocol):
    """Where figures go; must not block the event loop."""

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        """Take the figures of update `step`."""


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

    def welcome(self, hello: Hello, config: str, config_hash: str, policy_version: int) -> Welcome:
        """The answer to a Hello that is taken. config: the run's, as JSON. policy_version: that the trainer holds."""
        settings = self.settings.gateway
        return Welcome(
            protocol=PROTOCOL_VERSION,
            epoch=os.getpid() << 32 | int(time.time()),
            run=self.run,
            config=config,
            config_hash=config_hash,
            policy_version=policy_version,
            model_path=self.model_path,
            credit_trials=min(hello.capacity, settings.max_trials_per_actor),
            credit_bytes=settings.credit_bytes,
            heartbeat_seconds=settings.heartbeat_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What does not change while a run goes on: see `GatewayPlan`."""

    run: str
    updates: int
    episodes: int
    references: tuple[ReferenceFigure, ...]
    warmstart: tuple[Metric, ...]
    resumed_from: int | None
    mlflow_url: str

    @classmethod
    def of(cls, plan: GatewayPlan) -> RunFacts:
        """Those of a plan."""
        return cls(
            plan.run,
            plan.settings.batch.updates,
            plan.settings.trial.episodes,
            plan.references,
            plan.warmstart,
            plan.resume_step,
            plan.mlflow_url,
        )


@dataclass(frozen=True, slots=True)
class EvaluationSchedule:
    """Which policy versions are measured, and how.

    asked: what is asked of each of them; `plan` fills in name and version. every: updates between two evaluations
    during training, 0 for none. updates: of the whole run. slot_retries: how often a play may fail.
    """

    asked: EvaluationPlan
    every: int
    updates: int
    slot_retries: int

    def plan(self, name: str, policy_version: int) -> EvaluationPlan:
        """The evaluation called `name`, of this version."""
        return replace(self.asked, name=name, policy_version=policy_version)

    def is_due(self, version: int) -> bool:
        """Whether training waits until this version is measured."""
        if self.every == 0 or self.asked.tasks == 0:
            return False
        return 0 < version < self.updates and version % self.every == 0


def asked_of_evaluations(
    evaluation: EvaluationSettings, trial: TrialSettings, env: str, env_config: str
) -> EvaluationPlan:
    """What the settings ask of every policy version. env_config: the environment's options in evaluations."""
    return EvaluationPlan(
        name="",
        policy_version=0,
        env=env,
        env_config=env_config,
        tasks=evaluation.tasks,
        rounds=evaluation.rounds,
        episodes=evaluation.episodes,
        memory=MemoryMode(evaluation.memory) if evaluation.memory else trial.memory,
        sampling=Sampling(
            evaluation.temperature,
            evaluation.top_p,
            evaluation.top_k,
            trial.max_response_tokens,
            trial.max_reflection_tokens,
        ),
    )


def evaluation_schedule(plan: GatewayPlan) -> EvaluationSchedule:
    """Which versions of a run are measured, and how."""
    settings = plan.settings
    asked = asked_of_evaluations(settings.evaluation, settings.trial, settings.env.name, plan.evaluation_env_config)
    return EvaluationSchedule(asked, settings.evaluation.every, settings.batch.updates, settings.gateway.slot_retries)
