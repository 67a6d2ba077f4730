"""How far a run has come, and its figures as metrics.jsonl, the tracker, an observer and the summary get them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.liveness.loop_lag import LoopLag
from lamer.common.messages import Metric, Phase, Role, Status, UpdateReport
from lamer.learner.gateway.batching import Batcher
from lamer.learner.gateway.dispatch import Dispatcher
from lamer.learner.gateway.intake import Intake
from lamer.learner.gateway.peers import PeerTable
from lamer.learner.gateway.plan import RunFacts, Tracker
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.record import SECONDS, TRAINING_SECONDS, MetricsFile, Spent
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.journal.entries import JournalState
from lamer.learner.measuring.counting import pass_at
from lamer.learner.measuring.evaluation import EvaluationResult
from lamer.learner.measuring.result import RunResult


@dataclass(slots=True)
class Progress:
    """What a run is doing.

    started, training_since: loop times. reported_step: the last update that was reported. before: what a resumed run
    had spent at its checkpoint. counted_from: the update from which trials, tokens and seconds count; 0 but for a run
    that lamer 0.1 began.
    """

    started: float
    training_since: float
    training_seconds: float = 0.0
    before: Spent = field(default_factory=Spent)
    counted_from: int = 0
    phase: Phase = Phase.STARTING
    reported_step: int = 0
    evaluations: list[EvaluationResult] = field(default_factory=list)

    def seconds(self, now: float) -> float:
        """How long the run has been at work, without the time between an end and a resumption."""
        return self.before.seconds + now - self.started

    def trained_for(self, now: float) -> float:
        """How long it has been training so far."""
        return self.before.training_seconds + now - self.training_since


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Reads the gateway's parts. lag: of its event loop, the longest since the last `metrics`."""

    facts: RunFacts
    progress: Progress
    pool: TrialPool
    dispatcher: Dispatcher
    intake: Intake
    batcher: Batcher
    weights: Announcer
    peers: PeerTable
    lag: LoopLag

    def metrics(self, now: float) -> tuple[Metric, ...]:
        """The gateway's own figures, logged with every update.

        Rates of rollout are left out where a resumed run trained trials that were all played before.
        """
        trials, tokens = self.intake.rates.rates(now)
        rates = (Metric("rollout/trials_per_second", trials), Metric("rollout/tokens_per_second", tokens))
        return (
            *(() if self.batcher.is_of_stored_trials else rates),
            Metric(SECONDS, self.progress.seconds(now)),
            Metric(TRAINING_SECONDS, self.progress.trained_for(now)),
            Metric("rollout/in_flight", float(len(self.dispatcher.leases))),
            Metric("rollout/trials", float(self.intake.trials)),
            Metric("trainer/wait_seconds", self.batcher.wait_seconds),
            Metric("gateway/loop_lag_seconds", self.lag.take()),
            *self.weights.metrics(),
            *self.batcher.figures.metrics(self.facts.episodes),
            *self.pool.drops.metrics(),
        )

    def status(self, now: float) -> Status:
        """What the live panel shows."""
        trials, tokens = self.intake.rates.rates(now)
        evaluation = self.dispatcher.evaluation
        figures = self.batcher.figures
        return Status(
            run=self.facts.run,
            phase=self.progress.phase,
            update=self.progress.reported_step,
            updates=self.facts.updates,
            pass_at=pass_at(figures.solved_at, self.facts.episodes) if figures.solved_at else (),
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
            seconds=self.progress.seconds(now),
            mlflow_url=self.facts.mlflow_url,
        )

    def result(self, now: float, exit_code: int) -> RunResult:
        """How the run ended."""
        drops = self.pool.drops
        return RunResult(
            run=self.facts.run,
            exit_code=exit_code,
            updates=self.progress.reported_step,
            policy_version=self.pool.trained_from,
            evaluations=tuple(self.progress.evaluations),
            references=self.facts.references,
            warmstart=self.facts.warmstart,
            seconds=self.progress.seconds(now),
            training_seconds=self.progress.training_seconds,
            trials=self.intake.trials,
            response_tokens=self.intake.tokens,
            drops=tuple(Metric(reason, float(count)) for reason, count in sorted(drops.groups.items())),
            dropped_trials=drops.trials,
            dropped_solved=drops.solved,
            staleness_max=self.batcher.staleness_max,
            resumed_from=self.facts.resumed_from,
            counted_from=self.progress.counted_from,
        )


class UpdateReports:
    """The trainer's figures of each update, with the gateway's own: to metrics.jsonl and to the tracker."""

    def __init__(self, run_dir: Path, tracker: Tracker, figures: RunFigures) -> None:
        self._record = MetricsFile(run_dir / "metrics.jsonl")
        self._tracker = tracker
        self._figures = figures

    def take(self, report: UpdateReport, now: float) -> None:
        """Keep the report of an update."""
        self._figures.progress.reported_step = report.step
        metrics = (*report.metrics, *self._figures.metrics(now))
        self._record.write(report.step, metrics)
        self._tracker.log(report.step, metrics)

    def close(self) -> None:
        """Close the file of the record."""
        self._record.close()

    def restore(self, step: int, state: JournalState) -> None:
        """Count on from a checkpoint of update `step`, with what the journal holds of the run."""
        progress = self._figures.progress
        progress.reported_step = step
        spent = self._record.forget_after(step)
        self._figures.batcher.staleness_max = spent.staleness_max
        self._figures.pool.drops.restore(state.drops)
        if spent.is_known:
            progress.before = spent
            self._figures.intake.trials, self._figures.intake.tokens = state.trials, state.response_tokens
        else:
            progress.counted_from = step
