"""Tracking a run in MLflow, from a thread of its own: nothing here blocks the event loop.

    Tracker      queue in, thread out: figures of updates, drawings, and at the end the run's files
    MlflowRun    one MLflow run: created, or found again when the run is resumed; the only place that imports mlflow

A failure is warned of once and the run goes on; so does tracking, in case the server comes back. Drawings are made
whether or not MLflow is in use. What the queue can't hold, and what is left when the time to finish is over, is lost
to MLflow, but not to `metrics.jsonl`.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lamer.common import config
from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.learner.measuring.evaluation import EVALUATIONS_FOLDER, read_evaluations
from lamer.learner.measuring.result import ReferenceFigure

log = logging.getLogger("lamer.tracking")

RUN_ID_FILE = "mlflow_run_id"
RUN_FILES = ("config.yaml", "summary.json", "metrics.jsonl")
FIGURES_FOLDER = "figures"
DRAW_EVERY = 50
FINISH_SECONDS = 60.0
INTERRUPTED_SECONDS = 3.0

_QUEUE_ITEMS = 10_000
_PARAMETERS_A_BATCH = 100
_LONGEST_VALUE = 6000
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Set before mlflow is imported, unless the user has set them."""
_PACKAGES = ("lamer", "torch", "transformers", "mlflow")

Job = Callable[[], None]


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What is tracked. uri "": no MLflow. parameters: flat (full key, value) pairs of the configuration."""

    name: str
    run_dir: Path
    uri: str
    experiment: str
    parameters: tuple[tuple[str, str], ...] = ()
    references: tuple[ReferenceFigure, ...] = ()


class Tracker:
    """Takes a run's figures without ever waiting for anybody. `start` once, `finish` once."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked
        self._mlflow = MlflowRun(tracked) if tracked.uri else None
        self._jobs: queue.Queue[Job | None] = queue.Queue(_QUEUE_ITEMS)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._has_warned = False
        self._drawn_at = 0

    @classmethod
    def open(cls, settings: Settings, run: str, run_dir: Path, references: Sequence[ReferenceFigure] = ()) -> Tracker:
        """The tracker that `settings.tracking` describes; MLflow's default is a sqlite file beside the run folders."""
        uri = settings.tracking.uri or f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"
        return cls(
            TrackedRun(
                name=run,
                run_dir=run_dir,
                uri=uri if settings.tracking.mlflow else "",
                experiment=settings.tracking.experiment,
                parameters=config.parameters(settings),
                references=tuple(references),
            )
        )

    @property
    def url(self) -> str:
        """Where the run can be looked at: the tracking URI, "" without MLflow."""
        return self._tracked.uri

    def start(self) -> None:
        """Start the thread, which creates the MLflow run or finds it again."""
        self._thread.start()
        if self._mlflow is not None:
            self._put(self._mlflow.connect)

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        """Take the figures of update `step`."""
        if self._mlflow is not None:
            now, run = int(time.time() * 1000), self._mlflow
            self._put(lambda: run.log_metrics(step, metrics, now))
        if step >= self._drawn_at + DRAW_EVERY:
            self._drawn_at = step
            self._put(self._draw)

    def finish(self, status: str, seconds: float | None = None) -> None:
        """Draw, hand over the run's files and end the MLflow run; blocks for a bounded time, so call it from a thread.

        Args:
            status: FINISHED, FAILED or KILLED; of an interrupted run nothing is drawn.
            seconds: most time it may take; by default less for an interrupted run.
        """
        is_interrupted = status == "KILLED"
        if not is_interrupted:
            self._put(self._draw)
        if self._mlflow is not None:
            run = self._mlflow
            self._put(lambda: run.end(status))
        limit = seconds if seconds is not None else INTERRUPTED_SECONDS if is_interrupted else FINISH_SECONDS
        deadline = time.monotonic() + limit
        try:
            self._jobs.put(None, timeout=limit)
        except queue.Full:
            pass
        else:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(
                f"tracking at {self.url} did not finish within {limit:.0f} s: its last figures are missing there"
            )

    def _put(self, job: Job) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._warn(f"tracking at {self.url} is {_QUEUE_ITEMS} steps behind: figures are missing there")

    def _work(self) -> None:
        """The thread: one job after another until `finish`."""
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # whatever it is, the run is worth more than its tracking
                self._warn(f"tracking failed, the run goes on: {type(error).__name__}: {_first_line(error)}")

    def _draw(self) -> None:
        from lamer.learner.measuring.figures import draw_figures  # noqa: PLC0415 -- matplotlib takes a second, here in the thread

        run_dir, tracked = self._tracked.run_dir, self._tracked
        figures = draw_figures(
            run_dir / "metrics.jsonl",
            run_dir / FIGURES_FOLDER,
            tracked.name,
            tracked.references,
            read_evaluations(run_dir),
        )
        if self._mlflow is not None:
            for figure in figures:
                self._mlflow.log_file(figure, FIGURES_FOLDER)

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(message)


class MlflowRun:
    """One run in MLflow, used by one thread. Its id stays in the run folder: a resumed run goes on with it."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked
        self._id_file = tracked.run_dir / RUN_ID_FILE
        self._client: Any = None
        self._run_id = ""

    def connect(self) -> None:
        """Find or create the run; again where that failed before.

        Raises:
            Exception: mlflow is not installed, or what it raises when the server can't be reached.
        """
        if self._run_id:
            return
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 -- seconds of imports, here in the thread

        client = MlflowClient(tracking_uri=self._tracked.uri)
        known = self._id_file.read_text(encoding="utf-8").strip() if self._id_file.is_file() else ""
        if known:
            client.update_run(known, status="RUNNING")
            run_id = known
        else:
            run_id = self._create(client)
            self._id_file.write_text(run_id + "\n", encoding="utf-8")
        self._client, self._run_id = client, run_id

    def log_metrics(self, step: int, metrics: Sequence[Metric], milliseconds: int) -> None:
        """Log figures of update `step`, taken at `milliseconds` since the epoch, in one request."""
        self.connect()
        from mlflow.entities import Metric as MlflowMetric  # noqa: PLC0415

        values = {mlflow_name(metric.name): metric.value for metric in metrics}
        self._client.log_batch(
            self._run_id, metrics=[MlflowMetric(name, value, milliseconds, step) for name, value in values.items()]
        )

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artefact; one that is not there is left out."""
        self.connect()
        if path.is_file():
            self._client.log_artifact(self._run_id, str(path), folder)

    def end(self, status: str) -> None:
        """Log the run's files and end the run."""
        for name in RUN_FILES:
            self.log_file(self._tracked.run_dir / name)
        for path in sorted((self._tracked.run_dir / EVALUATIONS_FOLDER).glob("[!.]*.json")):
            self.log_file(path, EVALUATIONS_FOLDER)
        self._client.set_terminated(self._run_id, status)

    def _create(self, client: Any) -> str:  # noqa: ANN401 -- mlflow is not type-checked
        """A new run with its parameters and tags."""
        from mlflow.entities import Param  # noqa: PLC0415

        tracked = self._tracked
        experiment = client.get_experiment_by_name(tracked.experiment)
        experiment_id = experiment.experiment_id if experiment else self._create_experiment(client)
        run_id = str(client.create_run(experiment_id, tags=tags(), run_name=tracked.name).info.run_id)
        parameters = [Param(key, value[:_LONGEST_VALUE]) for key, value in tracked.parameters]
        for start in range(0, len(parameters), _PARAMETERS_A_BATCH):
            client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_A_BATCH])
        return run_id

    def _create_experiment(self, client: Any) -> str:  # noqa: ANN401 -- mlflow is not type-checked
        """The experiment; its artefacts lie beside the run folders where MLflow is a file, else where it says."""
        is_file = self._tracked.uri.startswith("sqlite:")
        artefacts = self._tracked.run_dir.resolve().parent / "mlartifacts"
        return str(
            client.create_experiment(self._tracked.experiment, artifact_location=str(artefacts) if is_file else None)
        )


def mlflow_name(name: str) -> str:
    """A metric's name as MLflow allows it: train/pass@1 is train/pass_at_1 there."""
    return name.replace("@", "_at_")


def tags() -> Mapping[str, str]:
    """What made the run: versions of Python and of the packages, and the git commit if the source is a checkout."""
    found = {"python": platform.python_version(), "host": platform.node()}
    for package in _PACKAGES:
        try:
            found[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = _git_commit(Path(__file__).resolve().parent)
    return {**found, "mlflow.source.git.commit": commit} if commit else found


def _git_commit(folder: Path) -> str:
    command = ("git", "-C", str(folder), "rev-parse", "HEAD")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5.0, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
