"""Tracking against a real MLflow over sqlite, and that its failures never reach the run."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamer.common.messages import Metric
from lamer.common.settings import EnvSettings, Settings, TrackingSettings
from lamer.learner.measuring.evaluation import write_evaluation
from lamer.learner.measuring.mlflow_run import TrackedRun, mlflow_name, tags
from lamer.learner.measuring.tracking import Tracker
from tests.learner.measuring.test_pass_figures import FINAL

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'lamer[mlflow]'")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs; its MLflow database is created once, which takes seconds."""
    return tmp_path_factory.mktemp("runs")


def run_folder(runs: Path, name: str) -> Path:
    folder = runs / name
    folder.mkdir()
    line = {"step": 1, "train/pass@1": 0.2, "train/pass@2": 0.4}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "config.yaml").write_text("run: {}\n")
    (folder / "summary.json").write_text("{}\n")
    return folder


def client(runs: Path) -> Any:  # noqa: ANN401 -- mlflow is not type-checked
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")


def track(folder: Path, steps: range, status: str = "FINISHED", settings: Settings | None = None) -> str:
    tracker = Tracker.open(settings or Settings(), folder.name, folder)
    tracker.start()
    for step in steps:
        tracker.log(step, [Metric("train/pass@1", step / 10), Metric("loss/policy", -0.5)])
    tracker.finish(status)
    return (folder / "mlflow_run_id").read_text().strip()


def artefacts(found: Any, run_id: str) -> set[str]:  # noqa: ANN401 -- mlflow is not type-checked
    folders = (None, "figures", "evaluations")
    paths = [item for folder in folders for item in found.list_artifacts(run_id, folder)]
    return {item.path for item in paths if not item.is_dir}


def test_a_run_has_its_parameters_metrics_figures_files_and_tags(runs: Path) -> None:
    folder = run_folder(runs, "doors-001")
    write_evaluation(FINAL, folder)
    run_id = track(folder, range(1, 4))
    found = client(runs)
    run = found.get_run(run_id)
    assert run.info.run_name == "doors-001"
    assert run.info.status == "FINISHED"
    assert run.data.params["batch.group_size"] == "8"
    history = found.get_metric_history(run_id, "train/pass_at_1")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert {"config.yaml", "summary.json", "metrics.jsonl", "figures/pass_at_k.png"} <= artefacts(found, run_id)
    assert {"evaluations/final.json", "figures/evaluation.png"} <= artefacts(found, run_id)
    assert run.data.tags["version.mlflow"]
    assert (runs / "mlartifacts" / run_id).is_dir(), "artefacts lie beside the runs"


def test_what_mlflow_holds_of_the_configuration_has_no_secret_option(runs: Path) -> None:
    folder = run_folder(runs, "doors-secret")
    (folder / "config.yaml").write_text("env: {options: {api_key: pa55}}\n")
    run_id = track(folder, range(1, 2), settings=Settings(env=EnvSettings(options={"api_key": "pa55"})))
    assert client(runs).get_run(run_id).data.params["env.options.api_key"] == "***"
    tracked = (runs / "mlartifacts" / run_id / "artifacts" / "config.yaml").read_text()
    assert "api_key: '***'" in tracked
    assert "pa55" not in tracked


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(runs: Path) -> None:
    folder = run_folder(runs, "doors-002")
    first = track(folder, range(1, 3), status="KILLED")
    assert client(runs).get_run(first).info.status == "KILLED"
    assert track(folder, range(3, 5)) == first
    run = client(runs).get_run(first)
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client(runs).get_metric_history(first, "loss/policy")]
    assert steps == [1, 2, 3, 4]


def test_logging_returns_at_once_while_mlflow_is_still_starting(tmp_path: Path) -> None:
    tracker = Tracker.open(Settings(), "run", tmp_path)
    tracker.start()
    started = time.perf_counter()
    for step in range(200):
        tracker.log(step, [Metric("loss/policy", 0.0)] * 50)
    assert time.perf_counter() - started < 0.5
    tracker.finish("KILLED")


def test_an_unreachable_server_is_warned_of_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(tmp_path, "run")
    tracker = Tracker(TrackedRun("run", folder, "sqlite:////proc/nowhere/mlflow.db", "lamer"))
    with caplog.at_level(logging.WARNING, "lamer.tracking"):
        tracker.start()
        for step in range(3):
            tracker.log(step, [Metric("loss/policy", 0.0)])
        tracker.finish("FINISHED")
    warnings = [record for record in caplog.records if record.name == "lamer.tracking"]
    assert len(warnings) == 1
    assert "the run goes on" in warnings[0].message
    assert (folder / "figures" / "pass_at_k.png").is_file(), "figures need no MLflow"


def test_finishing_is_bounded_when_the_thread_is_stuck(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(TrackedRun("run", tmp_path, "", "lamer"))
    tracker.start()
    tracker._put(lambda: time.sleep(2.0))
    started = time.perf_counter()
    tracker.finish("FINISHED", seconds=0.1)
    assert time.perf_counter() - started < 1.5
    assert "did not finish within" in caplog.text


def test_without_mlflow_there_are_figures_and_no_database(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    settings = replace(Settings(), tracking=TrackingSettings(mlflow=False))
    tracker = Tracker.open(settings, "run", folder)
    tracker.start()
    tracker.log(1, [Metric("loss/policy", 0.0)])
    tracker.finish("FINISHED")
    assert tracker.url == ""
    assert (folder / "figures" / "pass_at_k.png").is_file()
    assert not (tmp_path / "mlflow.db").exists()


def test_metric_names_are_such_as_mlflow_allows() -> None:
    assert mlflow_name("train/pass@3") == "train/pass_at_3"
    assert mlflow_name("reward/episode_1") == "reward/episode_1"


def test_tags_tell_versions() -> None:
    assert tags()["version.torch"]
