"""Pages and plots from results alone: the numbers of the cells, of the paper and of the references are on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lamer.deploy.experiments.blocks import plot
from lamer.deploy.experiments.cells import make_cells
from lamer.deploy.experiments.definition import Experiment
from lamer.deploy.experiments.estimate import estimates
from lamer.deploy.experiments.index import index
from lamer.deploy.experiments.page import page, write_page
from lamer.deploy.experiments.reading import parse
from lamer.deploy.experiments.results import CellResult, EvaluationRecord, LearningCurve, Measurement
from lamer.deploy.experiments.state import CellState, Places, Stage
from lamer.deploy.experiments.statistics import mean_share

GRID = yaml.safe_load((Path(__file__).parent / "grid.yaml").read_text())


def grid(**changes: object) -> Experiment:
    return parse({**GRID, **changes}, "grid.yaml")


def measured(*pass_at: float, diversity: float | None = None) -> Measurement:
    low, high = tuple(share - 0.03 for share in pass_at), tuple(share + 0.03 for share in pass_at)
    return Measurement(
        policy_version=4, n=700, tasks=700, pass_at=pass_at, low=low, high=high, valid_action_rate=0.99,
        first_action_entropy=1.5, episode_diversity=diversity, trial_diversity=diversity, tokens_per_episode=4.0,
    )  # fmt: skip


def result(arm: str, seed: int, final: Measurement, **changes: object) -> CellResult:
    fields: dict[str, object] = {
        "experiment": "grid", "cell": f"{arm}-s{seed}", "arm": arm, "at": {}, "seed": seed,
        "command": f"lamer train -c doors.yaml run.seed={seed}", "config_hash": "0", "overrides": (),
        "wall_seconds": 240.0, "updates": 4, "trials": 960, "response_tokens": 5000, "final": final, "initial": None,
        "references": {"best_policy": (0.2, 0.6, 1.0)}, "curve": LearningCurve((1, 4), ((0.1, 0.2), (0.2, 0.7))),
        "settings": {}, "figures": {"staleness/mean": 0.5 + seed},
    }  # fmt: skip
    return CellResult(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def results() -> dict[str, CellResult]:
    more = EvaluationRecord(
        command="lamer eval M -c doors.yaml evaluation.tasks=7", seconds=60.0, settings={},
        measurement=measured(0.1, 0.3, 0.4567), references={"best_policy": (0.1, 0.4, 0.9)},
    )  # fmt: skip
    first = result("fast", 0, measured(0.2, 0.5, 0.8, diversity=1.25), evaluations={"more": more})
    second = result("fast", 1, measured(0.2, 0.5, 1.0, diversity=1.75))
    return {"fast-s0": first, "fast-s1": second}


def lines_of(text: str, title: str) -> list[str]:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0].strip().splitlines()


def test_a_table_has_means_intervals_seeds_and_the_papers_numbers_beside_them(results: dict[str, CellResult]) -> None:
    """Of .8 and 1.0 the mean is .9, the interval .9 +- 12.706 * .1414 / sqrt(2), cut at 1: from -.37, cut at 0."""
    lines = lines_of(page(grid(), results, {}), "Success")
    assert lines[0] == "| method | seeds | pass@1 | paper | pass@2 | paper | pass@3 | paper | pass@3 of each seed |"
    pass_1, pass_2, pass_3 = "20.0 [20.0, 20.0]", "50.0 [50.0, 50.0]", "90.0 [0.0, 100.0]"
    assert lines[2] == f"| Fast | 0, 1 | {pass_1} | 50.0 | {pass_2} | – | {pass_3} | 74.4 | 80.0 / 100.0 |"
    assert lines[3] == "| crash | not yet: 0 | – | – | – | – | – | – | – |"
    assert lines[4] == "| absent | not run | – | 12.5 | – | 15.4 | – | 16.8 | – |"
    assert lines[5] == "| *best policy* | – | 20.0 | – | 60.0 | – | 100.0 | – | – |"
    assert "Paper: Table 9." in lines
    assert "Not run (absent): it is too large." in lines


def test_a_single_seed_has_the_interval_over_its_tasks(results: dict[str, CellResult]) -> None:
    lines = lines_of(page(grid(), {"fast-s0": results["fast-s0"]}, {}), "Success")
    assert lines[2].startswith("| Fast | 0 (not yet: 1) | 20.0 [17.0, 23.0] |")


def test_evaluations_stand_beside_each_other_with_the_references_of_their_own_tasks(
    results: dict[str, CellResult],
) -> None:
    lines = lines_of(page(grid(), results, {}), "Harder")
    assert lines[0] == "| method | after training, pass@3 | paper | seven tasks, pass@3 |"
    assert lines[2] == "| Fast | 90.0 [0.0, 100.0] | 74.4 | 45.7 [42.7, 48.7] |"
    assert lines[3] == "| *best policy* | 100.0 | – | 90.0 |"


def test_diversity_and_figures_are_means_over_seeds(results: dict[str, CellResult]) -> None:
    text = page(grid(), results, {})
    assert lines_of(text, "Variety")[2].startswith("| Fast | 0, 1 | 1.500 | 1.500 | 1.500 | 20.0 [20.0, 20.0] | 90.0")
    assert lines_of(text, "Measures")[2] == "| Fast | 0, 1 | 1 |"


def test_every_command_seed_and_cost_is_on_the_page_and_what_was_not_run_is_listed(
    results: dict[str, CellResult],
) -> None:
    text = page(grid(not_run=[{"what": "WebShop", "why": "no data"}]), results, {0: "grid/1.svg"})
    assert "Made by `lamer experiment grid`: 1 of 3 cells, 8 updates, 9 min of wall time." in text
    assert "| fast-s1 | 1 | 4.0 min | 4 | 960 | 5,000 |" in text
    assert "- fast-s0: `lamer train -c doors.yaml run.seed=0`" in text
    assert "  - more, 60 s: `lamer eval M -c doors.yaml evaluation.tasks=7`" in text
    assert "![Success](grid/1.svg)" in text
    not_run = lines_of(text, "Not run")
    assert not_run[:3] == ["- WebShop: no data", "- absent: it is too large", "- cells not run yet: crash-s0"]
    assert not_run[3] == "- evaluations of fast-s1 not run yet: more"


def test_a_page_without_results_says_so_and_has_no_plots(tmp_path: Path) -> None:
    places = Places(tmp_path / "runs", tmp_path / "results")
    text = write_page(grid(), {}, places).read_text()
    assert "0 of 3 cells" in text
    assert "Not run yet." in lines_of(text, "Curves")
    assert list(tmp_path.rglob("*.svg")) == []


def test_plots_are_written_beside_the_page_and_equal_results_give_equal_files(
    results: dict[str, CellResult], tmp_path: Path
) -> None:
    first, second = (Places(tmp_path, tmp_path / name) for name in ("first", "second"))
    text = write_page(grid(), results, first).read_text()
    write_page(grid(), results, second)
    files = sorted(path.name for path in first.plots("grid").iterdir())
    assert files == ["1-pass_at.svg", "2-evaluations.svg", "3-curves.svg", "4-diversity.svg"]
    for name in files:
        assert f"](grid/{name})" in text
        assert (first.plots("grid") / name).read_bytes() == (second.plots("grid") / name).read_bytes()
        assert ">Fast" in (first.plots("grid") / name).read_text()


def test_references_are_drawn_for_the_tasks_of_each_evaluation(results: dict[str, CellResult]) -> None:
    """After training best_policy has 1.0 at pass@3, in the evaluation `more` 0.9."""
    experiment = grid()
    block = next(block for block in experiment.page if block.kind == "evaluations")
    figure = plot(experiment, results, block)
    assert figure is not None
    dashed = [list(line.get_ydata()) for line in figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert [1.0, 0.9] in dashed
    assert "best policy 90.0" in [text.get_text() for text in figure.axes[0].texts]


def test_over_an_axis_a_plot_has_a_point_and_a_table_a_column_for_each_value() -> None:
    axes = [{"name": "discount", "key": "credit.trial_discount", "values": [0, 0.6, 1]}]
    block = {"kind": "axis", "axis": "discount", "title": "Discount"}
    experiment = grid(arms=[{"name": "a"}], axes=axes, paper=[], evaluations=[], page=[block])
    shares = {"a-discount0-s0": 0.4, "a-discount1-s0": 0.9}
    known = {
        cell: result("a", 0, measured(0.2, 0.3, share), cell=cell, at={"discount": value})
        for (cell, share), value in zip(shares.items(), (0, 1), strict=True)
    }
    figure = plot(experiment, known, experiment.page[0])
    assert figure is not None
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[0, 2], [0.4, 0.9]]
    (reference,) = [
        line for line in figure.axes[0].get_lines() if line.get_marker() == "None" and len(line.get_xdata()) == 3
    ]
    assert list(reference.get_ydata()) == [1.0] * 3
    lines = lines_of(page(experiment, known, {}), "Discount")
    assert lines[0] == "| method | discount 0 | discount 0.6 | discount 1 |"
    assert lines[2] == "| a | 40.0 [37.0, 43.0] | not yet | 90.0 [87.0, 93.0] |"
    assert lines[3] == "| *best policy* | 100.0 | 100.0 | 100.0 |"


def test_over_an_axis_the_papers_figures_stand_beside_each_point() -> None:
    axes = [{"name": "discount", "key": "credit.trial_discount", "values": [0, 1]}]
    block = {"kind": "axis", "axis": "discount", "title": "Discount"}
    paper = [{"source": "Fig. 5", "arm": "a", "at": {"discount": 1}, "pass_at": [44.1, 66.4, 74.4]}]
    experiment = grid(arms=[{"name": "a"}], axes=axes, paper=paper, evaluations=[], page=[block])
    lines = lines_of(page(experiment, {}, {}), "Discount")
    assert lines[3].startswith("| a, discount 1 | not yet: 0, 1 | – | 44.1 | – | 66.4 | – | 74.4 |")


def test_the_index_shows_every_experiments_first_table_and_where_its_page_is(results: dict[str, CellResult]) -> None:
    text = index([(grid(), results), (grid(name="other", title="Another"), {})], "results")
    assert "| [grid](results/grid.md) | A grid of three arms | 1 of 3 |" in text
    assert "| [other](results/other.md) | Another | 0 of 3 |" in text
    assert "90.0 [0.0, 100.0] | 74.4 | 80.0 / 100.0 |" in text


def test_a_mean_over_seeds_has_students_interval() -> None:
    estimate = mean_share([0.8, 0.9, 1.0], [(0.7, 0.9)] * 3)
    assert estimate.mean == pytest.approx(0.9)
    assert estimate.low == pytest.approx(0.9 - 4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert estimate.high == 1.0
    assert mean_share([0.5], [(0.4, 0.6)]).low == 0.4


def test_what_is_left_is_estimated_from_the_cells_that_are_done(results: dict[str, CellResult]) -> None:
    cells = {cell.name: cell for cell in make_cells(grid())}
    done = CellState(cells["fast-s0"], Stage.DONE, results["fast-s0"])
    left = [CellState(cells[name], Stage.TO_DO) for name in ("fast-s1", "crash-s0")]
    assert [each.seconds for each in estimates([done, *left])] == [0.0, 300.0, 300.0]
    assert [each.seconds for each in estimates(left)] == [None, None]
