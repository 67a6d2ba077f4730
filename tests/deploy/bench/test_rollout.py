"""The rollout benchmark from end to end at a sixteenth of its size: the order of its results, never their seconds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lamer.common.errors import BadInput, RunFailed
from lamer.deploy.bench.asynchronous import AsyncOptions, measure_asynchronous
from lamer.deploy.bench.report import ProcessLoad, RolloutReport, ScheduleFigures, TokenBalance
from lamer.deploy.bench.rollout import METARL, RL, RolloutBenchOptions, make_leases, run_rollout_bench
from lamer.deploy.bench.scripted import write_model_folder
from lamer.deploy.bench.simulated import SimulatedServer


def test_asynchronous_rollout_beats_lock_step_and_metarl_in_lock_step_costs_most(tmp_path: Path) -> None:
    output = tmp_path / "figures" / "rollout.json"
    options = RolloutBenchOptions(scale=1 / 16, time_scale=60.0, actors=1, output=output, updates=8)
    notes: list[str] = []
    report = run_rollout_bench(options, notes.append)
    rl, metarl, ours = report.schedules
    assert metarl.seconds_per_update > rl.seconds_per_update
    assert metarl.seconds_per_update > ours.seconds_per_update
    assert report.metarl_over_rl_lockstep > 1.0
    assert report.speedups[0].over_metarl_lockstep > 1.0
    assert report.speedups[0].equal_tokens_over_metarl_lockstep > 1.0
    assert rl.tokens.is_steady
    assert metarl.tokens.is_steady
    assert ours.tokens.trained > 0
    assert ours.updates >= 10
    assert rl.trajectories_per_update == metarl.trajectories_per_update == ours.trajectories_per_update == 24
    assert ours.staleness_max is not None
    assert ours.staleness_max <= 4
    assert all(0.0 < figures.saturation_share <= 1.05 for figures in report.schedules)
    assert len(notes) == 1 + len(report.schedules)
    written = json.loads(output.read_text())
    assert written["server"] == "simulated server"
    assert [figures["name"] for figures in written["schedules"]] == [figures.name for figures in report.schedules]


def test_both_lock_step_schedules_play_equally_many_trajectories_on_their_own_tasks() -> None:
    rl, metarl = make_leases(RL, 16, 0, seed=0), make_leases(METARL, 16, 0, seed=0)
    assert sum(lease.episodes for lease in rl) == sum(lease.episodes for lease in metarl) == 384
    assert len({lease.task.seed for lease in rl}) == 16
    following = make_leases(METARL, 16, 1, seed=0)
    assert {lease.trial_id for lease in metarl}.isdisjoint(lease.trial_id for lease in following)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"updates": 0}, "0"),
        ({"scale": 0.0}, "0.0"),
        ({"time_scale": -1.0}, "-1.0"),
        ({"max_staleness": ()}, r"\(\)"),
        ({"actors": 0}, "0"),
    ],
)
def test_options_that_cannot_be_run_are_refused_with_their_value(options: dict[str, object], value: str) -> None:
    with pytest.raises(BadInput, match=value):
        RolloutBenchOptions(**options)  # type: ignore[arg-type]


STEADY = TokenBalance(generated=240_000, trained=240_000, dropped=0)


def figures(
    name: str,
    seconds: float,
    cpu_share: float,
    max_staleness: int | None = None,
    busy_share: float = 0.99,
    tokens: TokenBalance = STEADY,
) -> ScheduleFigures:
    return ScheduleFigures(
        name=name,
        max_staleness=max_staleness,
        updates=3,
        trajectories_per_update=384,
        seconds_per_update=seconds,
        tokens_per_second=tokens.generated / (3 * seconds),
        saturation_share=0.5,
        busy_share=busy_share,
        tokens=tokens,
        loads=(ProcessLoad("client", cpu_share),),
    )


def test_the_report_gives_ratios_of_seconds_and_names_processes_that_were_short_of_cpu() -> None:
    rl, metarl = figures("rl", 80.0, 0.2), figures("metarl", 160.0, 0.9)
    report = RolloutReport.of(1.0, 8.0, 0, 2000.0, rl, metarl, (figures("ours", 40.0, 0.3, 4),))
    assert report.metarl_over_rl_lockstep == 2.0
    assert (report.speedups[0].over_metarl_lockstep, report.speedups[0].over_rl_lockstep) == (4.0, 2.0)
    assert any("metarl" in warning and "90%" in warning for warning in report.warnings)
    assert not any(warning.startswith(("rl:", "ours")) for warning in report.warnings)


def test_a_window_that_trains_on_a_stock_of_older_trials_is_no_steady_state_and_gains_nothing_at_equal_tokens() -> None:
    """Three updates took 720,000 tokens, 360,000 of which were there before: half the speed that it looks like."""
    rl = figures("rl", 80.0, 0.2, tokens=TokenBalance(480_000, 480_000, 0))
    metarl = figures("m", 160.0, 0.2, tokens=TokenBalance(720_000, 720_000, 0))
    ours = figures("ours", 20.0, 0.2, 12, tokens=TokenBalance(360_000, 720_000, 0))
    report = RolloutReport.of(1.0, 8.0, 0, 9000.0, rl, metarl, (ours,))
    (speedup,) = report.speedups
    assert speedup.over_metarl_lockstep == 8.0
    assert speedup.equal_tokens_over_metarl_lockstep == pytest.approx(4.0)
    assert speedup.equal_tokens_over_rl_lockstep == pytest.approx(2.0)
    assert speedup.per_token_over_rl_lockstep == pytest.approx(3.0)
    assert report.metarl_tokens_over_rl == pytest.approx(1.5)
    assert [line for line in report.warnings if "not a steady state" in line and "-100.0%" in line and "S=12" in line]


@pytest.mark.parametrize(
    ("balance", "is_steady"),
    [
        (TokenBalance(100_000, 97_000, 0), True),
        (TokenBalance(100_000, 96_900, 0), False),
        (TokenBalance(100_000, 103_000, 0), True),
        (TokenBalance(100_000, 103_100, 0), False),
        (TokenBalance(100_000, 60_000, 40_000), True),
    ],
)
def test_a_steady_state_trains_or_drops_what_it_generates_within_three_percent(
    balance: TokenBalance, is_steady: bool
) -> None:
    assert balance.is_steady is is_steady


def test_dropped_tokens_are_no_throughput() -> None:
    ours = figures("ours", 40.0, 0.2, 4, tokens=TokenBalance(200_000, 150_000, 50_000))
    assert ours.trained_tokens_per_second == pytest.approx(0.75 * ours.tokens_per_second)


def test_a_schedule_that_left_the_server_idle_is_named_since_this_machine_was_too_slow_for_it() -> None:
    ours = figures("ours", 50.0, 0.3, max_staleness=4, busy_share=0.9)
    report = RolloutReport.of(1.0, 8.0, 0, 2000.0, figures("rl", 80.0, 0.2), figures("m", 160.0, 0.2), (ours,))
    assert len(report.warnings) == 1
    assert "ours (S=4)" in report.warnings[0]
    assert "10%" in report.warnings[0]


def test_every_printed_line_of_figures_says_that_the_server_is_simulated() -> None:
    report = RolloutReport.of(1.0, 8.0, 0, 2000.0, figures("rl", 80.0, 0.2), figures("m", 160.0, 0.2), ())
    output = io.StringIO()
    report.print(Console(file=output, width=200))
    title, *lines = [line for line in output.getvalue().splitlines() if line.strip()]
    assert "simulated server" in title
    ratios = [line for line in lines if "2.00x" in line]
    assert len(ratios) == 1
    assert "simulated server" in ratios[0]


async def test_an_actor_that_ends_early_fails_the_measurement_with_what_it_said(tmp_path: Path) -> None:
    model_path, folder = tmp_path / "model", tmp_path / "run"
    write_model_folder(model_path)
    folder.mkdir()
    (model_path / "tokenizer.json").write_text("no tokenizer")
    options = AsyncOptions(1, 8, 3, max_staleness=4, actors=1, seed=0, model_path=model_path, folder=folder)
    async with SimulatedServer.run(model_path, seed=0, time_scale=60.0, max_running=32) as server:
        with pytest.raises(RunFailed, match=r"code 2 .*tokenizer"):
            await measure_asynchronous(server, options, saturation=1.0)
