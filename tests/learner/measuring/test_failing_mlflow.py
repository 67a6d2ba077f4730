"""An MLflow that fails now and then: one run, complete in the end, or a reason why it is not. MLflow's own server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamer.common.messages import Metric
from lamer.common.settings import Settings, TrackingSettings
from lamer.learner.measuring.mlflow_run import RUN_ID_FILE, MlflowRun, TrackedRun
from lamer.learner.measuring.tracking import Tracker
from tests.learner.measuring.test_tracking import run_folder

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'lamer[mlflow]'")
from tests.learner.measuring.mlflow_server import Door, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The server, started once, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        with served(tmp_path_factory.mktemp("server")) as door:
            yield door


@pytest.fixture
def door(server: Door, monkeypatch: pytest.MonkeyPatch) -> Door:
    """The server with its door open."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # what a test sets goes with it
    server.refuse, server.lose, server.login = {}, {}, ""
    return server


def track(uri: str, folder: Path, steps: range, status: str = "FINISHED") -> str:
    settings = replace(Settings(), tracking=TrackingSettings(uri=uri, experiment=folder.name))
    tracker = Tracker.open(settings, folder.name, folder)
    tracker.start()
    for step in steps:
        tracker.log(step, [Metric("train/pass@1", step / 10)])
    return tracker.finish(status)


def only_run(door: Door, experiment: str) -> Any:  # noqa: ANN401 -- mlflow is not type-checked
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=door.url)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], run_view_type=ViewType.ALL)
    assert [run.info.lifecycle_stage for run in found] == ["active"], "one run, whatever failed"
    run = found[0]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/pass_at_1")]
    return run, sorted(steps), {item.path for item in client.list_artifacts(run.info.run_id)}


FAILURES = {
    "parameters": ({"/runs/log-batch": 3}, {}),
    "created-unseen": ({}, {"/runs/create": 1, "/runs/search": 1}),
    "experiment": ({"/experiments/create": 1}, {"/experiments/create": 1}),
    "start": ({"/experiments/get-by-name": 2, "/runs/create": 2}, {}),
    "end": ({"/runs/update": 3, "/runs/log-batch": 1}, {"/runs/log-batch": 2}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_one_complete_run_whatever_fails_in_between(name: str, door: Door, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, name)
    door.refuse, door.lose = ({**each} for each in FAILURES[name])
    assert track(door.url, folder, range(1, 6)) == ""
    assert not any((*door.refuse.values(), *door.lose.values())), "all of it was refused"
    run, steps, files = only_run(door, name)
    assert run.info.status == "FINISHED"
    assert run.data.params["batch.group_size"] == "8"
    assert steps == [1, 2, 3, 4, 5]
    assert {"config.yaml", "summary.json", "metrics.jsonl", "figures"} <= files
    assert (folder / RUN_ID_FILE).read_text().strip() == run.info.run_id


def test_a_server_that_always_refuses_the_parameters_gets_one_run_with_all_else(door: Door, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "refused")
    run = MlflowRun(TrackedRun("refused", folder, door.url, "refused", (("a", "1"),)))
    door.refuse = {"/runs/log-batch": 2}
    for _ in range(2):
        with pytest.raises(Exception, match="503"):
            run.log_parameters()
    run.log_metrics(1, [Metric("train/pass@1", 0.1)], 1)
    run.end("FAILED")
    found, steps, _ = only_run(door, "refused")
    assert (found.info.status, steps, found.data.params) == ("FAILED", [1], {})


def test_a_resumed_run_finds_the_run_whose_creation_was_not_answered_and_adds_what_is_missing(
    door: Door, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, "resumed")
    first = MlflowRun(TrackedRun("resumed", folder, door.url, "resumed", (("a", "1"),)))
    door.lose = {"/runs/create": 1}
    with pytest.raises(Exception, match="503"):
        first.connect()
    assert not (folder / RUN_ID_FILE).exists()
    second = MlflowRun(TrackedRun("resumed", folder, door.url, "resumed", (("a", "1"), ("b", "2"))))
    second.log_parameters()
    second.end("KILLED")
    run, _, _ = only_run(door, "resumed")
    assert (run.info.status, run.data.params) == ("KILLED", {"a": "1", "b": "2"})


def test_a_run_resumed_with_another_address_is_tracked_there(door: Door, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "moved")
    (folder / RUN_ID_FILE).write_text("0" * 32 + "\n")
    assert track(door.url, folder, range(1, 3)) == ""
    assert only_run(door, "moved")[1] == [1, 2]


def test_a_login_in_the_address_is_used_and_shown_nowhere(
    door: Door, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, "login")
    door.login = "someone:pa55@word"
    uri = door.url.replace("http://", "http://someone:pa55%40word@")
    with caplog.at_level(logging.DEBUG):
        assert track(uri, folder, range(1, 3)) == ""
        door.login = "someone:another"
        lost = track(uri, run_folder(tmp_path, "login-2"), range(1, 3))
    door.login = ""
    assert "401" in lost
    assert door.url in lost
    run, steps, _ = only_run(door, "login")
    assert (run.data.params["tracking.uri"], steps) == (door.url.replace("http://", "http://***@"), [1, 2])
    assert "pa55" not in lost + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "http://u:pa55@127.0.0.1:9"])
def test_a_store_that_fails_at_once_is_not_waited_for_and_the_reason_is_told(uri: str, tmp_path: Path) -> None:
    """With the most time that is waited for others, that is far above what is needed, it would have been killed."""
    folder = run_folder(tmp_path, "gone")
    settings = replace(Settings(), tracking=TrackingSettings(uri=uri))
    tracker = Tracker.open(settings, folder.name, folder)
    tracker.start()
    tracker.log(1, [Metric("train/pass@1", 0.1)])
    lost = tracker.finish("FINISHED")
    assert "did not finish" not in lost
    assert "unable to open database file" in lost or "Connection refused" in lost
    assert "pa55" not in lost


@pytest.mark.parametrize("name", ["feature%2Fmaze", "what? 50% #1 ü"])
def test_any_name_of_a_folder_can_hold_the_database(name: str, tmp_path: Path) -> None:
    runs = tmp_path / name / "runs"
    folder = runs / "run"
    runs.mkdir(parents=True)
    run_folder(runs, "run")
    tracker = Tracker.open(Settings(), "run", folder)
    tracker.start()
    tracker.log(1, [Metric("train/pass@1", 0.1)])
    assert tracker.finish("FINISHED") == ""
    assert (runs / "mlflow.db").is_file()
    run_id = (folder / RUN_ID_FILE).read_text().strip()
    assert (runs / "mlartifacts" / run_id / "artifacts" / "config.yaml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
