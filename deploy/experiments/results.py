"""What a cell came to: `cells/CELL.json`, small enough to be committed, made from its run folder.

CellResult    its configuration, cost, evaluations and learning curve
Measurement   one evaluation in short, with 95% intervals of the shares over its tasks
collect       the result of a finished run and of the evaluations of its model that are finished
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lamer.common.config import config_hash
from lamer.common.errors import BadInput, RunFailed
from lamer.common.masking import masked_word
from lamer.deploy.experiments.cells import Cell, CellEvaluation, identity
from lamer.deploy.experiments.definition import Value
from lamer.deploy.run.folder import write_text
from lamer.learner.measuring.evaluation import EvaluationResult, TaskOutcome, read_evaluations
from lamer.learner.measuring.figures import Curve, History

MAX_POINTS = 60
"""Most points of a learning curve that a result keeps."""
FIGURES = (
    "staleness/mean", "staleness/max", "engine/importance_ess", "policy/logprob_shift_mean", "loss/clip_fraction",
    "loss/entropy", "critic/explained_variance", "train/valid_actions",
)  # fmt: skip
"""Metrics whose mean over the last tenth of the updates a result keeps."""
_EPISODES = "123456789abcdefghijklmnopqrstuvwxyz"
DIGITS = 5
"""Decimals that a result keeps."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One policy version, measured: pass_at[k] = solved within k + 1 episodes; low, high: its 95% interval over tasks.

    outcomes: a string for each round, a character for each task: the episode that solved it (1 to 9, a to z, then "+"),
    "-" if none did, "?" if it was left out; empty in results that were written before 0.2. n: trials, of so many tasks
    in so many rounds. trial_diversity, episode_diversity: entropy in nats of a task's trajectories (whole trials, first
    episodes), mean over tasks; None where no task was played twice. The rest as in
    `learner.measuring.evaluation.EvaluationResult`.
    """

    policy_version: int
    n: int
    tasks: int
    pass_at: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rounds: int = 1
    memory: str = ""
    valid_action_rate: float = 0.0
    first_action_entropy: float = 0.0
    trial_diversity: float | None = None
    episode_diversity: float | None = None
    tokens_per_episode: float = 0.0
    outcomes: tuple[str, ...] = ()


class LearningCurve(msgspec.Struct, frozen=True):
    """pass_at[k][i]: running mean of training's pass@(k+1) at updates[i], at most `MAX_POINTS` of them."""

    updates: tuple[int, ...] = ()
    pass_at: tuple[tuple[float, ...], ...] = ()


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation of the cell's model. settings: `cells.identity` of its configuration."""

    command: str
    seconds: float
    settings: dict[str, str]
    measurement: Measurement
    references: dict[str, tuple[float, ...]] = {}


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finished cell. settings: `cells.identity` of its configuration. wall_seconds: over all attempts, restarts of
    interrupted runs included. run: of another experiment where the cell was taken from there.
    """

    experiment: str
    cell: str
    arm: str
    at: dict[str, Value]
    seed: int
    command: str
    config_hash: str
    overrides: tuple[str, ...]
    wall_seconds: float
    updates: int
    trials: int
    response_tokens: int
    final: Measurement | None
    initial: Measurement | None
    references: dict[str, tuple[float, ...]]
    curve: LearningCurve
    settings: dict[str, str]
    figures: dict[str, float] = {}
    evaluations: dict[str, EvaluationRecord] = {}
    run: str = ""


def read_result(path: Path) -> CellResult | None:
    """The result in a file, None when there is none.

    Raises:
        BadInput: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=CellResult)
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} holds no cell's result ({error}): remove it to run the cell again") from error


def write_result(path: Path, result: CellResult) -> None:
    """Replace a result's file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, msgspec.json.format(msgspec.json.encode(result), indent=1).decode() + "\n")


class _Summary(msgspec.Struct, frozen=True):
    """What `summary.json` says of a run (`learner.measuring.summary`) beside its evaluations."""

    exit_code: int
    config_hash: str
    model: str
    reference: Mapping[str, Mapping[str, float]]
    updates: int
    trials: int
    tokens: int
    wall_seconds: float


def is_finished(run: Path, updates: int) -> bool:
    """Whether a run folder holds the results of a run of so many updates that came to its end."""
    try:
        summary = _read_summary(run)
    except RunFailed:
        return False
    return summary.exit_code == 0 and summary.updates == updates


def recorded_hash(run: Path) -> str:
    """The hash of a finished run's configuration, "" without one."""
    try:
        return _read_summary(run).config_hash
    except RunFailed:
        return ""


def model_of(run: Path) -> Path:
    """What to evaluate of a finished run: the run, whose trained model is meant, else the model that it left untrained.

    Raises:
        RunFailed: the folder holds no finished run.
    """
    return run if (run / "model").is_dir() else Path(_read_summary(run).model)


def collect(cell: Cell, run: Path, wall_seconds: float) -> CellResult:
    """The result of a cell's finished run, without evaluations of its model.

    Args:
        wall_seconds: that were measured; 0 takes what the run says itself.

    Raises:
        RunFailed: the folder holds no finished run.
    """
    summary = _read_summary(run)
    measured = {result.name: measurement(result) for result in read_evaluations(run)}
    return CellResult(
        experiment=cell.experiment,
        cell=cell.name,
        arm=cell.key.arm,
        at=dict(cell.key.at),
        seed=cell.key.seed,
        command=cell.shown_command(),
        config_hash=config_hash(cell.settings),
        overrides=tuple(map(masked_word, cell.overrides)),
        wall_seconds=round(wall_seconds or summary.wall_seconds, 1),
        updates=summary.updates,
        trials=summary.trials,
        response_tokens=summary.tokens,
        final=measured.get("final"),
        initial=measured.get("initial"),
        references=_references(summary),
        curve=read_curve(run / "metrics.jsonl"),
        settings=identity(cell.settings),
        figures=read_figures(run / "metrics.jsonl"),
    )


def collect_evaluation(cell: Cell, evaluation: CellEvaluation, run: Path, wall_seconds: float) -> EvaluationRecord:
    """The result of an evaluation's finished run.

    Raises:
        RunFailed: the folder holds no finished evaluation.
    """
    found = read_evaluations(run) if is_finished(run, 0) else ()
    if not found:
        raise RunFailed(f"{run} holds no finished evaluation")
    return EvaluationRecord(
        command=cell.shown_command(evaluation),
        seconds=round(wall_seconds, 1),
        settings=identity(evaluation.settings),
        measurement=measurement(found[-1]),
        references=_references(_read_summary(run)),
    )


def measurement(result: EvaluationResult) -> Measurement:
    """An evaluation in short."""
    first = result.by_episode[0].diversity if result.by_episode else None
    return Measurement(
        policy_version=result.policy_version,
        n=result.n,
        tasks=result.tasks,
        pass_at=_rounded(result.pass_at),
        low=_rounded([interval.low for interval in result.intervals]),
        high=_rounded([interval.high for interval in result.intervals]),
        rounds=result.rounds,
        memory=result.memory.value,
        valid_action_rate=round(result.valid_action_rate, DIGITS),
        first_action_entropy=round(result.first_action_entropy, DIGITS),
        trial_diversity=None if result.trial_diversity is None else round(result.trial_diversity.nats, DIGITS),
        episode_diversity=None if first is None else round(first.nats, DIGITS),
        tokens_per_episode=round(result.tokens_per_episode, DIGITS),
        outcomes=_outcomes(result),
    )


def _outcomes(result: EvaluationResult) -> tuple[str, ...]:
    """Every task's outcome in every round, see `Measurement`."""

    def mark(outcome: TaskOutcome, turn: int) -> str:
        if turn >= len(outcome.solved_at):
            return "?"
        episode = outcome.solved_at[turn]
        if episode is None:
            return "-"
        return _EPISODES[episode] if episode < len(_EPISODES) else "+"

    return tuple("".join(mark(outcome, turn) for outcome in result.outcomes) for turn in range(result.rounds))


def read_curve(metrics: Path) -> LearningCurve:
    """Training's pass@k from `metrics.jsonl`, smoothed, at evenly spaced updates from the first to the last."""
    curves = History.read(metrics).numbered("train/pass@")
    if not curves:
        return LearningCurve()
    chosen = _thinned(len(curves[0]))
    return LearningCurve(
        tuple(int(curves[0].updates[index]) for index in chosen), tuple(_values(curve, chosen) for curve in curves)
    )


def read_figures(metrics: Path) -> dict[str, float]:
    """The mean over the last tenth of the updates of every metric of `FIGURES` that `metrics.jsonl` holds."""
    history = History.read(metrics)
    curves = {name: curve for name in FIGURES if (curve := history.get(name)) is not None}
    return {
        name: round(float(curve.values[-max(1, len(curve) // 10) :].mean()), DIGITS) for name, curve in curves.items()
    }


def _thinned(count: int) -> list[int]:
    """At most `MAX_POINTS` evenly spaced indices of `count`, the first and the last among them."""
    points = min(count, MAX_POINTS)
    return [round(index * (count - 1) / max(points - 1, 1)) for index in range(points)]


def _values(curve: Curve, chosen: list[int]) -> tuple[float, ...]:
    smoothed = curve.smoothed()
    return tuple(round(float(smoothed[index]), 4) for index in chosen)


def _read_summary(run: Path) -> _Summary:
    path = run / "summary.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Summary)
    except (OSError, msgspec.DecodeError) as error:
        raise RunFailed(f"{path} holds no results: {error}") from error


def _references(summary: _Summary) -> dict[str, tuple[float, ...]]:
    return {name: _rounded(tuple(figures.values())) for name, figures in summary.reference.items()}


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, DIGITS) for value in values)
