"""metrics.jsonl of a run that was interrupted reads as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamer.common.errors import RunFailed
from lamer.common.messages import Metric
from lamer.learner.gateway.record import SECONDS, TRAINING_SECONDS, MetricsFile, Spent


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of five updates of ten seconds each, two of which are training."""
    path = tmp_path / "metrics.jsonl"
    record = MetricsFile(path)
    for step in range(1, 6):
        spent = (Metric(SECONDS, 10.0 * step), Metric(TRAINING_SECONDS, 2.0 * step))
        record.write(step, (*spent, Metric("staleness/max", step % 4)))
    return path


def test_a_resumed_run_drops_the_lines_after_its_checkpoint_and_counts_on_from_there(path: Path) -> None:
    record = MetricsFile(path)
    assert record.forget_after(4) == Spent(40.0, 8.0, staleness_max=3)
    assert steps(path) == [1, 2, 3, 4]
    record.write(5, (Metric("loss", 1.0),))
    assert steps(path) == [1, 2, 3, 4, 5]
    assert "loss" in path.read_text().splitlines()[-1]


def test_a_trainer_that_goes_back_to_a_checkpoint_replaces_its_lines(path: Path) -> None:
    record = MetricsFile(path)
    record.forget_after(5)
    record.write(3, ())
    assert steps(path) == [1, 2, 3]


def test_a_line_that_was_cut_off_is_left_out(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"step": 6, "loss"')
    MetricsFile(path).forget_after(5)
    assert steps(path) == [1, 2, 3, 4, 5]


def test_a_run_without_a_record_has_spent_nothing(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path / "metrics.jsonl").forget_after(0) == Spent()


def test_what_an_earlier_version_does_not_say_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "staleness/max": 2}\n')
    assert MetricsFile(path).forget_after(1) == Spent(staleness_max=2, is_known=False)


def test_a_record_that_cannot_be_opened_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunFailed, match=r"the run's record can't be written: .*Is a directory: .*metrics\.jsonl"):
        MetricsFile(tmp_path / "metrics.jsonl")
