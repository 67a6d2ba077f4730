"""What a finished run, and one that goes on, is shown as."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from lamer.common.messages import Phase, Sampling, Status
from lamer.common.settings import Settings
from lamer.deploy.run.panel import PlainView, plain_line, render
from lamer.deploy.run.report import episodes_table, print_results, read_results, results_table
from lamer.learner.measuring.diversity import Diversity
from lamer.learner.measuring.evaluation import EpisodeFigures, EvaluationResult, write_evaluation
from lamer.learner.measuring.intervals import Interval
from lamer.learner.measuring.result import ReferenceFigure, RunResult
from lamer.learner.measuring.summary import write_summary

STATUS = Status(
    run="doors-001",
    phase=Phase.TRAINING,
    update=37,
    updates=120,
    pass_at=(0.21, 0.52, 0.803),
    trials=8880,
    trials_per_second=12.34,
    tokens_per_second=5321.0,
    in_flight=240,
    staleness_mean=1.25,
    staleness_max=2,
    weight_age=0.4,
    policy_version=37,
    actors=1,
    servers=1,
    dropped=0,
    evaluated=0,
    evaluations=0,
    seconds=74.0,
)


def result(**changes: object) -> RunResult:
    final = EvaluationResult(
        name="final",
        policy_version=120,
        n=700,
        failed=0,
        pass_at=(0.2, 0.6, 0.99),
        valid_action_rate=1.0,
        mean_turns=2.2,
        mean_response_tokens=5.0,
        first_action_entropy=0.1,
        sampling=Sampling(0.7, 1.0, 0, 8, 8),
        seconds=10.0,
    )
    made = RunResult(
        run="doors-001",
        exit_code=0,
        updates=120,
        policy_version=120,
        evaluations=(replace(final, name="initial", pass_at=(0.2, 0.36, 0.488)), final),
        references=(ReferenceFigure("optimum", (0.2, 0.6, 1.0)),),
        warmstart=(),
        seconds=100.0,
        training_seconds=80.0,
        trials=28800,
        response_tokens=300000,
        drops=(),
        dropped_trials=0,
        dropped_solved=0,
        staleness_max=2,
        resumed_from=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def shown(what: object, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_final_evaluation_stands_beside_the_references(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", result(), Settings(), tmp_path)
    rows = read_results(tmp_path / "summary.json")
    assert [(row.name, row.pass_at, row.is_ours) for row in rows] == [
        ("doors-001, after training", (0.2, 0.6, 0.99), True),
        ("doors-001, before training", (0.2, 0.36, 0.488), True),
        ("optimum", (0.2, 0.6, 1.0), False),
    ]
    text = shown(results_table(rows))
    assert "pass@3" in text
    assert "0.990" in text


def test_shares_are_shown_with_their_intervals(tmp_path: Path) -> None:
    ends = (Interval(0.171, 0.229), Interval(0.56, 0.64), Interval(0.98, 1.0))
    only = replace(result().evaluations[1], intervals=ends)
    write_summary(tmp_path / "summary.json", result(evaluations=(only,), updates=0), Settings(), tmp_path)
    rows = read_results(tmp_path / "summary.json")
    assert [row.name for row in rows] == ["doors-001", "optimum"], "nothing was trained"
    assert rows[0].intervals == ((0.171, 0.229), (0.56, 0.64), (0.98, 1.0))
    assert "0.171..0.229" in shown(results_table(rows))


def test_an_evaluation_is_shown_episode_by_episode_and_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diversity = Diversity(nats=0.7, interval=Interval(0.6, 0.8), distinct=2.0, tasks=2, rollouts=4.0)
    final = replace(
        result().evaluations[1],
        rounds=4,
        failed=3,
        overflowed=5,
        by_episode=(
            EpisodeFigures(700, 0.2, 1.0, 5.5, 0.999, diversity),
            EpisodeFigures(560, 0.5, 2.0, 6.5, 0.998, None),
            EpisodeFigures(0, 0.0, 0.0, 0.0, 0.0, None),
        ),
    )
    text = shown(episodes_table(final))
    assert "x 4 rounds" in text
    rows = [line.replace("\u2502", "").split() for line in text.splitlines() if "\u2502" in line]
    assert rows == [
        ["1", "700", "0.200", "1.00", "5.5", "0.999", "0.700"],
        ["2", "560", "0.500", "2.00", "6.5", "0.998", "-"],
        ["all", "700", "0.00", "0.0", "1.000", "-"],
    ], "no trial came to a third episode"
    write_evaluation(final, tmp_path)
    write_summary(tmp_path / "summary.json", result(evaluations=(final,)), Settings(), tmp_path)
    print_results(tmp_path / "summary.json")
    said = " ".join(capsys.readouterr().out.split())
    assert "5 of 700 trials count as unsolved because a prompt outgrew" in said
    assert "3 trials are left out" in said


def test_a_run_without_an_evaluation_shows_only_references(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", result(evaluations=()), Settings(), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["evaluation"] is None
    assert [row.name for row in read_results(tmp_path / "summary.json")] == ["optimum"]


def test_lost_tracking_is_told_with_the_results_and_only_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_summary(tmp_path / "summary.json", result(evaluations=()), Settings(), tmp_path)
    print_results(tmp_path / "summary.json")
    assert "tracking was lost" not in capsys.readouterr().out
    write_summary(tmp_path / "summary.json", result(evaluations=()), Settings(), tmp_path, "http://h: [Errno 111]")
    print_results(tmp_path / "summary.json")
    assert "tracking was lost: http://h: [Errno 111]; metrics.jsonl has" in capsys.readouterr().out


def test_the_panel_shows_every_figure_of_the_status() -> None:
    text = shown(render(msgspec.structs.replace(STATUS, mlflow_url="sqlite:///runs/mlflow.db")))
    for figure in ("doors-001", "37/120", "0.803", "12.3", "5,321", "240", "1.25", "0.4 s ago", "01:14", "02:46 left"):
        assert figure in text
    assert "sqlite:///runs/mlflow.db" in text


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("pass_at", [(), (0.5,), (0.1, 0.2, 0.3, 0.4, 0.5)])
def test_every_phase_can_be_drawn_and_told_in_a_line(phase: Phase, pass_at: tuple[float, ...]) -> None:
    status = msgspec.structs.replace(STATUS, phase=phase, pass_at=pass_at, updates=0, update=0)
    assert "doors-001" in shown(render(status))
    assert len(plain_line(status).splitlines()) == 1


def test_plain_lines_come_at_a_change_of_phase_and_about_twenty_four_times_a_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = PlainView()
    view.show(msgspec.structs.replace(STATUS, phase=Phase.STARTING, update=0, seconds=0.0))
    for update in range(121):
        view.show(msgspec.structs.replace(STATUS, update=update, seconds=update / 10))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 24
    assert lines[-1].startswith("00:12  update 120/120  pass@1 0.210")


def test_a_plain_line_comes_when_nothing_changes_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    for seconds in range(0, 95, 5):
        view.show(msgspec.structs.replace(STATUS, seconds=float(seconds)))
    assert len(capsys.readouterr().out.splitlines()) == 4
