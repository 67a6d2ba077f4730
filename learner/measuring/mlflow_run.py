"""One run in MLflow: created once, found again by whoever tries again or resumes; the only place that imports mlflow.

Every step can be repeated: what MLflow holds already is left as it is. Before MLflow is asked for a run, a key of ours
is kept in the run folder, and the run is tagged with it; whether a request that seemed to fail made the run after all
is then a question that MLflow answers. MLflow's own retries, which would repeat the creation blindly, are off.
"""

from __future__ import annotations

import logging
import os
import platform
import sqlite3
import subprocess
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lamer.common.messages import Metric
from lamer.learner.measuring.result import ReferenceFigure

RUN_ID_FILE = "mlflow_run_id"
RUN_KEY_FILE = "mlflow_run_key"
RUN_KEY_TAG = "lamer.run_key"

_PARAMETERS_A_BATCH = 100
_LONGEST_VALUE = 6000
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Set before mlflow is imported, unless the user has set them."""
_PACKAGES = ("lamer", "torch", "transformers", "mlflow")


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What is tracked. uri "": no MLflow. parameters: flat (full key, value) pairs of the configuration; config: all of
    it as YAML; both without secrets.
    """

    name: str
    run_dir: Path
    uri: str
    experiment: str
    parameters: tuple[tuple[str, str], ...] = ()
    config: str = ""
    references: tuple[ReferenceFigure, ...] = ()


class MlflowRun:
    """One run in MLflow, used by one thread. Its id stays in the run folder: a resumed run goes on with it."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._tracked = tracked
        self._id_file = tracked.run_dir / RUN_ID_FILE
        self._client: Any = None
        self._run_id = ""

    @property
    def is_connected(self) -> bool:
        """Whether the run is known to be there."""
        return bool(self._run_id)

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

        _check_file(self._tracked.uri)
        self._client = MlflowClient(tracking_uri=_handed_over(self._tracked.uri))
        run_id = self._known() or self._tagged() or self._create()
        self._id_file.write_text(run_id + "\n", encoding="utf-8")
        self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id

    def log_parameters(self) -> None:
        """Log those parameters that the run does not have yet."""
        self.connect()
        from mlflow.entities import Param  # noqa: PLC0415

        there = self._client.get_run(self._run_id).data.params
        missing = [Param(key, value[:_LONGEST_VALUE]) for key, value in self._tracked.parameters if key not in there]
        for start in range(0, len(missing), _PARAMETERS_A_BATCH):
            self._client.log_batch(self._run_id, params=missing[start : start + _PARAMETERS_A_BATCH])

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

    def log_text(self, text: str, name: str) -> None:
        """Log a text as an artefact of this name."""
        self.connect()
        self._client.log_text(self._run_id, text, name)

    def end(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self.connect()
        self._client.set_terminated(self._run_id, status)

    def _known(self) -> str:
        """The id kept in the run folder, "" where there is none, or none that this MLflow knows."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        run_id = self._id_file.read_text(encoding="utf-8").strip() if self._id_file.is_file() else ""
        if not run_id:
            return ""
        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""  # the run is resumed with another tracking.uri
        return run_id

    def _tagged(self) -> str:
        """The run that a try whose answer did not arrive has made; "" for none. Of several the first stays."""
        if not (self._tracked.run_dir / RUN_KEY_FILE).is_file():
            return ""
        experiment = self._client.get_experiment_by_name(self._tracked.experiment)
        if experiment is None:
            return ""
        ours, oldest = f"tags.`{RUN_KEY_TAG}` = '{self._key()}'", ["attributes.start_time ASC"]
        found = self._client.search_runs([experiment.experiment_id], ours, order_by=oldest)
        for other in found[1:]:  # the user has MLflow retry requests itself
            self._client.delete_run(other.info.run_id)
        return str(found[0].info.run_id) if found else ""

    def _create(self) -> str:
        """A new run with its tags."""
        experiment = self._client.get_experiment_by_name(self._tracked.experiment)
        experiment_id = experiment.experiment_id if experiment else self._create_experiment()
        found = {**tags(), RUN_KEY_TAG: self._key()}
        made = self._client.create_run(experiment_id, tags=found, run_name=self._tracked.name)
        return self._tagged() or str(made.info.run_id)

    def _create_experiment(self) -> str:
        """The experiment; its artefacts lie beside the run folders where MLflow is a file, else where it says."""
        is_file = self._tracked.uri.startswith("sqlite:")
        artefacts = (self._tracked.run_dir.resolve().parent / "mlartifacts").as_uri()
        return str(
            self._client.create_experiment(self._tracked.experiment, artifact_location=artefacts if is_file else None)
        )

    def _key(self) -> str:
        """What this run is tagged with in MLflow, kept before MLflow hears of it."""
        file = self._tracked.run_dir / RUN_KEY_FILE
        if not file.is_file():
            file.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()


def sqlite_uri(path: Path) -> str:
    """MLflow's address of a sqlite file; `%` and `?` would be read as an address's own.

    Where one occurs all is escaped, slashes too: MLflow makes the folder that the address, as it is written, names.
    """
    text = str(path.resolve())
    return f"sqlite:///{urllib.parse.quote(text, safe='') if set(text) & set('%?') else text}"


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


def _handed_over(uri: str) -> str:
    """The address as MLflow gets it: a server's without user and password, which it takes from the environment.

    They would stand in its errors and in the warnings of the libraries below it.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = urllib.parse.unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = urllib.parse.unquote(parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check_file(uri: str) -> None:
    """See at once whether a sqlite file can be opened: MLflow tries it for a minute.

    Raises:
        sqlite3.OperationalError: it can't.
    """
    if uri.startswith("sqlite:"):
        from sqlalchemy.engine import make_url  # noqa: PLC0415 -- comes with mlflow

        url = make_url(uri)
        if url.database and url.database != ":memory:" and not url.query:
            with closing(sqlite3.connect(url.database)) as connection:
                connection.execute("PRAGMA schema_version")
