"""How far a run has come, and its figures as metrics.jsonl, the tracker, an observer and the summary get them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.liveness.loop_lag import LoopLag
from lamer.common.messages import Metric, Phase, Role, Status, UpdateReport
from lamer.learner.gateway.batching import Batcher
from lamer.learner.gateway.dispatch import Dispatcher
from lamer.learner.gateway.intake import Intake
from lamer.learner.gateway.peers import PeerTable
from lamer.learner.gateway.plan import GatewayPlan, Tracker
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.measuring.counting import pass_at
from lamer.learner.measuring.evaluation import EvaluationResult
from lamer.learner.measuring.result import RunResult


@dataclass(slots=True)
class Progress:
    """What a run is doing. started, training_since: loop times. reported_step: the last update that was reported."""

    started: float
    training_since: float
    training_seconds: float = 0.0
    phase: Phase = Phase.STARTING
    reported_step: int = 0
    evaluations: list[EvaluationResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Reads the gateway's parts. lag: of its event loop, the longest since the last `metrics`."""

    plan: GatewayPlan
    progress: Progress
    pool: TrialPool
    dispatcher: Dispatcher
    intake: Intake
    batcher: Batcher
    weights: Announcer
    peers: PeerTable
    lag: LoopLag

    def metrics(self, now: float) -> tuple[Metric, ...]:
        """The gateway's own figures, logged with every update."""
        trials, tokens = self.intake.rates.rates(now)
        return (
            Metric("rollout/trials_per_second", trials),
            Metric("rollout/tokens_per_second", tokens),
            Metric("rollout/in_flight", float(len(self.dispatcher.leases))),
            Metric("rollout/trials", float(self.intake.trials)),
            Metric("trainer/wait_seconds", self.batcher.wait_seconds),
            Metric("gateway/loop_lag_seconds", self.lag.take()),
            *self.weights.metrics(),
            *self.batcher.figures.metrics(self.plan.episodes),
            *self.pool.drops.metrics(),
        )

    def status(self, now: float) -> Status:
        """What the live panel shows."""
        trials, tokens = self.intake.rates.rates(now)
        evaluation = self.dispatcher.evaluation
        figures = self.batcher.figures
        return Status(
            run=self.plan.run,
            phase=self.progress.phase,
            update=self.progress.reported_step,
            updates=self.plan.updates,
            pass_at=pass_at(figures.solved_at, self.plan.episodes) if figures.solved_at else (),
            trials=self.intake.trials,
            trials_per_second=trials,
            tokens_per_second=tokens,
            in_flight=len(self.dispatcher.leases),
            staleness_mean=figures.age_mean,
            staleness_max=figures.age_max,
            weight_age=self.weights.age(now),
            policy_version=self.pool.trained_from,
            actors=len(self.peers.of_role(Role.ACTOR)),
            servers=len(self.weights.servers()),
            dropped=self.pool.drops.groups.total(),
            evaluated=0 if evaluation is None else evaluation.done,
            evaluations=0 if evaluation is None else evaluation.plan.plays,
            seconds=now - self.progress.started,
            mlflow_url=self.plan.mlflow_url,
        )

    def result(self, now: float, exit_code: int) -> RunResult:
        """How the run ended."""
        drops = self.pool.drops
        return RunResult(
            run=self.plan.run,
            exit_code=exit_code,
            updates=self.progress.reported_step,
            policy_version=self.pool.trained_from,
            evaluations=tuple(self.progress.evaluations),
            references=self.plan.references,
            warmstart=self.plan.warmstart,
            seconds=now - self.progress.started,
            training_seconds=self.progress.training_seconds,
            trials=self.intake.trials,
            response_tokens=self.intake.tokens,
            drops=tuple(Metric(reason, float(count)) for reason, count in sorted(drops.groups.items())),
            dropped_trials=drops.trials,
            dropped_solved=drops.solved,
            staleness_max=self.batcher.staleness_max,
            resumed_from=self.plan.resume_step,
        )


class UpdateReports:
    """The trainer's figures of each update, with the gateway's own: to metrics.jsonl and to the tracker."""

    def __init__(self, run_dir: Path, tracker: Tracker, figures: RunFigures) -> None:
        self._file = run_dir / "metrics.jsonl"
        self._tracker = tracker
        self._figures = figures

    def take(self, report: UpdateReport, now: float) -> None:
        """Keep the report of an update."""
        self._figures.progress.reported_step = report.step
        metrics = (*report.metrics, *self._figures.metrics(now))
        line = json.dumps({"step": report.step, **{metric.name: metric.value for metric in metrics}})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._tracker.log(report.step, metrics)
