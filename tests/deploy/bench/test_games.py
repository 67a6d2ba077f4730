"""Many games at once: what is counted, for environments with and without worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamer.common.config import load
from lamer.common.errors import Missing
from lamer.deploy.bench.games import GamesBenchOptions, run_games_bench


async def test_games_are_played_side_by_side_until_time_is_over(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    notes: list[str] = []
    options = GamesBenchOptions(games=3, seconds=0.5, output=output)
    report = await run_games_bench(load([Path("doors.yaml")]), options, notes.append)
    assert report.steps >= 3
    assert report.steps >= report.episodes > 0, "one opening an episode, the last ones may be unfinished"
    assert 0 < report.solved < report.episodes
    assert (report.faults, report.started, report.games) == (0, 0, 3)
    assert len(notes) == len(report.samples) > 0
    assert report.samples[-1].own_mib > 10
    assert json.loads(output.read_text())["steps"] == report.steps
    assert "doors: 3 games at once" in report.lines()[0]


async def test_games_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    settings = load([Path("alfworld.yaml")], [f"env.options.data={tmp_path}"])
    with pytest.raises(Missing, match="run `"):
        await run_games_bench(settings, GamesBenchOptions(games=2, seconds=5.0), lambda line: None)
