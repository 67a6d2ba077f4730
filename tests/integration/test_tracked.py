"""A run in a folder with an awkward name, tracked by a server that asks for a login: MLflow's own, real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.deploy.run.folder import find_run
from lamer.learner.journal.reader import JournalReader, TrialFilter, read_batch
from tests.integration.processes import TINY, start

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'lamer[mlflow]'")
from tests.learner.measuring.mlflow_server import Door, served

pytestmark = pytest.mark.timeout(300)
SMALL = ("--plain", "tracking.mlflow=true", "model.warmstart.steps=0", "evaluation.tasks=0", "tracking.experiment=12e3")


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """The server."""
    (tmp_path / "server").mkdir()
    with served(tmp_path / "server") as door:
        door.login = "someone:pa55"
        yield door


def lamer(folder: Path, *arguments: str) -> tuple[int, str]:
    process = start(("train", *arguments), folder, "train")
    try:
        return process.wait(), process.text
    finally:
        process.end()


def test_a_login_goes_to_the_server_and_nowhere_else_and_a_resumed_run_asks_for_it_again(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    work = tmp_path / "feature%2Fmaze #1?"
    work.mkdir()
    address = door.url.replace("http://", "http://someone:pa55@")
    code, text = lamer(work, "-c", str(TINY), "--name", "007", *SMALL, "batch.updates=1", f"tracking.uri={address}")
    assert code == 0, text
    assert "tracking was lost" not in text

    run = find_run("007", work / "runs")
    kept = [path for path in work.rglob("*") if path.is_file() and b"pa55" in path.read_bytes()]
    assert kept == []
    assert "http://***@127.0.0.1" in (run / "config.yaml").read_text()
    assert len(read_batch(run / "journal.db", 1)) == JournalReader(run / "journal.db").count(TrialFilter(step=1)) == 12

    again = ("-c", str(run / "config.yaml"), "--name", "007", "--resume", "--plain")
    code, text = lamer(work, *again)
    assert (code, "MLFLOW_TRACKING_URI" in text, "Traceback" in text) == (2, True, False), text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    code, text = lamer(work, *again)
    assert (code, "tracking was lost" in text) == (0, False), text

    door.login = ""
    client = MlflowClient(tracking_uri=door.url)
    found = client.search_runs([client.get_experiment_by_name("12e3").experiment_id])
    assert [(each.info.run_name, each.info.status) for each in found] == [("007", "FINISHED")]
    assert "pa55" not in repr(found[0].data)
    assert found[0].data.params["tracking.experiment"] == "12e3"


def test_lost_tracking_is_told_at_the_end_of_a_run(tmp_path: Path) -> None:
    lost = ("tracking.uri=sqlite:////proc/nowhere/mlflow.db", "batch.updates=0", "evaluation.initial=false")
    code, text = lamer(tmp_path, "-c", str(TINY), "--name", "lost", *SMALL, *lost)
    assert code == 0, text
    assert "tracking was lost: sqlite:////proc/nowhere/mlflow.db" in text
    assert "unable to open database file" in text
    assert '"tracking_lost": "sqlite:' in (tmp_path / "runs" / "lost" / "summary.json").read_text()
