"""Tracking a run in MLflow, from a thread of its own: nothing here blocks the event loop.

    Tracker   queue in, thread out: figures of updates, drawings, and at the end the run's files

What is owed to MLflow (`learner.measuring.mlflow_run`) is tried again until it is there: with whatever comes next,
every `RETRY_SECONDS`, and at the end for as long as something gets through. A failure is warned of once and the run
goes on; what is missing in MLflow at the end is told by `finish`. `metrics.jsonl` holds it all. Drawings are made
whether or not MLflow is in use.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from lamer.common import config
from lamer.common.masking import link, masked_within
from lamer.common.messages import Metric
from lamer.common.settings import Settings
from lamer.learner.measuring.evaluation import EVALUATIONS_FOLDER, read_evaluations
from lamer.learner.measuring.mlflow_run import MlflowRun, TrackedRun, sqlite_uri
from lamer.learner.measuring.result import ReferenceFigure

log = logging.getLogger("lamer.tracking")

CONFIG_FILE = "config.yaml"
RUN_FILES = ("summary.json", "metrics.jsonl")
FIGURES_FOLDER = "figures"
DRAW_EVERY = 50
RETRY_SECONDS = 30.0
FINISH_SECONDS = 60.0
INTERRUPTED_SECONDS = 3.0
CONNECT_SECONDS = 20.0
"""A store that has not answered for so long isn't waited for at the end."""

_QUEUE_ITEMS = 10_000
_PATIENCE_SECONDS = 5.0
_PATIENCE_WITHOUT_A_RUN = 1.0

Job = Callable[[], None]


class Tracker:
    """Takes a run's figures without ever waiting for anybody. `start` once, `finish` once."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked
        self._mlflow = MlflowRun(tracked) if tracked.uri else None
        self._jobs: queue.Queue[Job | None] = queue.Queue(_QUEUE_ITEMS)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._owed: dict[Hashable, Job] = {}
        self._delivered = 0
        self._problem = ""
        self._dropped = 0
        self._status = ""
        self._started = 0.0
        self._has_warned = False
        self._drawn_at = 0

    @classmethod
    def open(cls, settings: Settings, run: str, run_dir: Path, references: Sequence[ReferenceFigure] = ()) -> Tracker:
        """The tracker that `settings.tracking` describes; MLflow's default is a sqlite file beside the run folders."""
        uri = settings.tracking.uri or sqlite_uri(run_dir.resolve().parent / "mlflow.db")
        return cls(
            TrackedRun(
                name=run,
                run_dir=run_dir,
                uri=uri if settings.tracking.mlflow else "",
                experiment=settings.tracking.experiment,
                parameters=config.parameters(settings),
                config=config.to_shown_yaml(settings),
                references=tuple(references),
            )
        )

    @property
    def url(self) -> str:
        """Where the run can be looked at: the tracking URI without user and password, "" without MLflow."""
        return link(self._tracked.uri)

    def start(self) -> None:
        """Start the thread, which creates the MLflow run or finds it again."""
        self._started = time.monotonic()
        self._thread.start()
        if self._mlflow is not None:
            run = self._mlflow
            self._put(lambda: self._owe("parameters", run.log_parameters))

    def log(self, step: int, metrics: Sequence[Metric]) -> None:
        """Take the figures of update `step`."""
        if self._mlflow is not None:
            now, run = int(time.time() * 1000), self._mlflow
            self._put(lambda: self._owe(("metrics", step, now), lambda: run.log_metrics(step, metrics, now)))
        if step >= self._drawn_at + DRAW_EVERY:
            self._drawn_at = step
            self._put(self._draw)

    def finish(self, status: str, seconds: float | None = None) -> str:
        """Draw, hand over the run's files and end the MLflow run; blocks for a bounded time, so call it from a thread.

        Args:
            status: FINISHED, FAILED or KILLED; of an interrupted run nothing is drawn.
            seconds: most time it may take; by default less for an interrupted run.

        Returns:
            Why something is missing in MLflow, "" when all of it is there.
        """
        is_interrupted = status == "KILLED"
        if not is_interrupted:
            self._put(self._draw)
        limit = seconds if seconds is not None else self._patience(is_interrupted)
        deadline = time.monotonic() + limit
        self._status = status
        try:
            self._jobs.put(None, timeout=limit)
        except queue.Full:
            pass
        else:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            last = f" ({self._problem})" if self._problem else ""
            self._problem = f"it did not finish within {limit:.0f} s{last}"
            self._warn(f"tracking at {self.url}: {self._problem}; its last figures are missing there")
        elif self._dropped and not self._problem:
            self._problem = f"it was {_QUEUE_ITEMS} steps behind: {self._dropped} are missing"
        return f"{self.url}: {self._problem}" if self._problem and self._mlflow is not None else ""

    def _patience(self, is_interrupted: bool) -> float:
        """How long the end may take."""
        is_stuck = self._mlflow is not None and not self._mlflow.is_connected
        is_stuck = is_stuck and time.monotonic() > self._started + CONNECT_SECONDS
        return INTERRUPTED_SECONDS if is_interrupted or is_stuck else FINISH_SECONDS

    def _put(self, job: Job) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._dropped += 1
            self._warn(f"tracking at {self.url} is {_QUEUE_ITEMS} steps behind: figures are missing there")

    def _work(self) -> None:
        """The thread: one job after another until `finish`, then what ends the run."""
        while True:
            try:
                job = self._jobs.get(timeout=RETRY_SECONDS if self._owed else None)
            except queue.Empty:
                self._deliver()
                continue
            if job is None:
                break
            try:
                job()
            except Exception as error:  # a drawing: whatever it is, the run is worth more
                self._warn(f"a drawing failed, the run goes on: {_reason(error)}")
        if self._mlflow is not None:
            self._end(self._mlflow, self._status)

    def _end(self, run: MlflowRun, status: str) -> None:
        """Deliver what is still owed and the run's files, then end the run, whatever of them is missing."""
        run_dir, settings = self._tracked.run_dir, self._tracked.config
        if settings:
            self._add(CONFIG_FILE, lambda: run.log_text(settings, CONFIG_FILE))
        for path in (run_dir / name for name in RUN_FILES):
            self._add(path, lambda path=path: run.log_file(path))  # type: ignore[misc]
        for path in sorted((run_dir / EVALUATIONS_FOLDER).glob("[!.]*.json")):
            self._add(path, lambda path=path: run.log_file(path, EVALUATIONS_FOLDER))  # type: ignore[misc]
        self._deliver_patiently(run)
        missing = self._problem
        self._owed = {"end": lambda: run.end(status)}
        self._deliver_patiently(run)
        self._problem = missing or self._problem

    def _owe(self, key: Hashable, job: Job) -> None:
        """Deliver a job's work, now or later; one that is owed under the same key is replaced."""
        self._add(key, job)
        self._deliver()

    def _add(self, key: Hashable, job: Job) -> None:
        if len(self._owed) >= _QUEUE_ITEMS:
            self._dropped += 1
        else:
            self._owed[key] = job

    def _deliver(self) -> None:
        """Do what is owed, up to the first failure, which is tried again after all the others."""
        while self._owed:
            key = next(iter(self._owed))
            job = self._owed.pop(key)
            try:
                job()
            except Exception as error:  # whatever it is, the run is worth more than its tracking
                self._owed[key] = job
                self._problem = _reason(error)
                self._warn(f"tracking failed, the run goes on and it is tried again: {self._problem}")
                return
            self._delivered += 1
        self._problem = ""

    def _deliver_patiently(self, run: MlflowRun) -> None:
        """Do what is owed; give up when for a while nothing got through."""
        pause, waited = 0.1, 0.0
        while True:
            before = self._delivered
            self._deliver()
            if self._delivered > before:
                pause, waited = 0.1, 0.0
            if not self._owed or waited > (_PATIENCE_SECONDS if run.is_connected else _PATIENCE_WITHOUT_A_RUN):
                return
            time.sleep(pause)
            pause, waited = min(2 * pause, 1.0), waited + pause

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
            run = self._mlflow
            for figure in figures:
                self._owe(figure, lambda figure=figure: run.log_file(figure, FIGURES_FOLDER))  # type: ignore[misc]

    def _warn(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(message)


def _reason(error: Exception) -> str:
    """An error in one line, without passwords."""
    text = (str(error).strip() or repr(error)).splitlines()[0]
    return f"{type(error).__name__}: {masked_within(text)}"
