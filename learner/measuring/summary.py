"""`summary.json`: what a run came to, for people and for scripts.

    evaluation    of the last policy version: pass@1.. with intervals, n, sampling and what else was measured
    warm_start    the same of the first policy version (before training), and the figures of its warm start
    measured      pass@1.. of the versions measured during training, by update
    reference     exact or scripted figures to read them against, by name
    tracking_lost why something of the run is missing in MLflow, null when nothing is
    then          time, updates, trials, tokens, policy versions, drops by reason, throughput

Everything is a pure function of the gateway's `RunResult`; `write_summary` replaces the file in one step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lamer.common.config import config_hash
from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.learner.measuring.diversity import Diversity
from lamer.learner.measuring.evaluation import FINAL, INITIAL, EvaluationResult
from lamer.learner.measuring.result import RunResult

Json = str | float | int | None | Mapping[str, "Json"] | Sequence["Json"]


class Throughput(msgspec.Struct, frozen=True):
    """Means over the time in which the run trained; 0 where it did not train."""

    trials_per_second: float
    response_tokens_per_second: float
    updates_per_minute: float


def throughput(result: RunResult) -> Throughput:
    """Rates of a run, over all its time of training."""
    seconds = result.training_seconds
    if seconds <= 0.0:
        return Throughput(0.0, 0.0, 0.0)
    updates = result.updates - result.counted_from
    return Throughput(result.trials / seconds, result.response_tokens / seconds, 60.0 * updates / seconds)


def summary(result: RunResult, settings: Settings, model_path: Path, tracking_lost: str = "") -> Mapping[str, Json]:
    """A run's results as a tree that JSON can hold, in the order in which they are read."""
    by_name = {evaluation.name: evaluation for evaluation in result.evaluations}
    return {
        "run": result.run,
        "exit_code": result.exit_code,
        "config_hash": config_hash(settings),
        "env": settings.env.name,
        "model": str(model_path),
        "evaluation": _evaluation(by_name.get(FINAL)),
        "warm_start": {**(_evaluation(by_name.get(INITIAL)) or {}), **_warm_start(result.warmstart)},
        "measured": {
            str(each.policy_version): pass_at_keys(each.pass_at)
            for each in result.evaluations
            if each.name not in (INITIAL, FINAL)
        },
        "reference": {reference.name: pass_at_keys(reference.pass_at) for reference in result.references},
        "tracking_lost": tracking_lost or None,
        "wall_seconds": result.seconds,
        "training_seconds": result.training_seconds,
        "updates": result.updates,
        "resumed_from": result.resumed_from,
        "policy_versions": result.policy_version + 1,
        "trials": result.trials,
        "tokens": result.response_tokens,
        "staleness_max": result.staleness_max,
        "throughput": msgspec.to_builtins(throughput(result)),
        "drops": {drop.name: int(drop.value) for drop in result.drops},
        "dropped_trials": result.dropped_trials,
        "dropped_solved": result.dropped_solved,
    }


def write_summary(path: Path, result: RunResult, settings: Settings, model_path: Path, tracking_lost: str = "") -> None:
    """Write `summary.json`: a reader sees the file before or after, never a part of it."""
    text = json.dumps(summary(result, settings, model_path, tracking_lost), indent=2, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def pass_at_keys(pass_at: Sequence[float]) -> Mapping[str, float]:
    """pass@k by its name: (0.2, 0.6) gives {"pass@1": 0.2, "pass@2": 0.6}."""
    return {f"pass@{k + 1}": share for k, share in enumerate(pass_at)}


def _evaluation(result: EvaluationResult | None) -> Mapping[str, Json] | None:
    """In short; `evaluations/NAME.json` holds the rest."""
    if result is None:
        return None
    first = result.by_episode[0].diversity if result.by_episode else None
    return {
        **pass_at_keys(result.pass_at),
        "intervals": {f"pass@{k}": (each.low, each.high) for k, each in enumerate(result.intervals, start=1)},
        "n": result.n,
        "tasks": result.tasks,
        "rounds": result.rounds,
        "failed": result.failed,
        "overflowed": result.overflowed,
        "shortened_prompts": result.shortened,
        "policy_version": result.policy_version,
        "memory": result.memory.value,
        "sampling": msgspec.to_builtins(result.sampling),
        "valid_action_rate": result.valid_action_rate,
        "first_action_entropy": result.first_action_entropy,
        "trial_diversity": _nats(result.trial_diversity),
        "first_episode_diversity": _nats(first),
        "mean_turns": result.mean_turns,
        "mean_response_tokens": result.mean_response_tokens,
        "turns_per_episode": result.turns_per_episode,
        "tokens_per_episode": result.tokens_per_episode,
        "seconds": result.seconds,
    }


def _nats(found: Diversity | None) -> float | None:
    return None if found is None else found.nats


def _warm_start(metrics: Sequence[Metric]) -> Mapping[str, Json]:
    """Figures named "warmstart/loss", "model/parameters" ... as "warmstart_loss", "model_parameters" ..."""
    return {metric.name.replace("/", "_"): metric.value for metric in metrics}
