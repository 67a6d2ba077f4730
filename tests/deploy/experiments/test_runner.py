"""Running a grid: what is skipped, what goes on, what a crash leaves; with a `lamer` that trains in an instant."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lamer.common.errors import RunFailed
from lamer.deploy.experiments.cells import make_cells
from lamer.deploy.experiments.definition import Experiment
from lamer.deploy.experiments.reading import parse
from lamer.deploy.experiments.results import read_result
from lamer.deploy.experiments.runner import Report, Runner, exit_code
from lamer.deploy.experiments.state import Places, Stage, look

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
GRID = yaml.safe_load((HERE / "grid.yaml").read_text())


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    (tmp_path / "runs").mkdir()
    for name in ("grid", "other"):
        (tmp_path / "runs" / name).mkdir()
    return Places(tmp_path / "runs", tmp_path / "docs" / "results")


def grid(arms: list[dict[str, object]] | None = None, **changes: object) -> Experiment:
    tree = {**GRID, "paper": [], "page": [], **changes}
    if arms is not None:
        tree |= {"arms": arms, "evaluations": changes.get("evaluations", [])}
    return parse(tree, "grid.yaml")


def scripted(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "scripted_lamer.py"), *arguments)


async def run(experiment: Experiment, places: Places, parallel: int = 1, said: Callable[[str], None] = print) -> Report:
    left = [state for state in look(make_cells(experiment), places) if state.stage is not Stage.DONE]
    return await Runner(places, said, parallel, scripted).run(left)


def calls(places: Places, name: str = "grid") -> list[str]:
    file = places.folder / name / "calls"
    return file.read_text().splitlines() if file.exists() else []


@dataclass(frozen=True)
class Finished:
    """What a call for the whole grid came to, once for all tests that only look at it."""

    report: Report
    places: Places


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "runs" / "grid").mkdir(parents=True)
    places = Places(folder / "runs", folder / "results")
    return Finished(asyncio.run(run(grid(), places)), places)


def test_a_crashed_cell_is_reported_and_the_others_go_on(finished: Finished) -> None:
    assert finished.report.done == ("fast-s0", "fast-s1")
    assert [failure.cell for failure in finished.report.failures] == ["crash-s0"]
    with pytest.raises(RunFailed, match="1 of the cells failed: crash-s0: the trainer died too often"):
        exit_code(finished.report)
    cells = ["train fast-s0", "eval fast-s0.more", "train crash-s0", "train fast-s1", "eval fast-s1.more"]
    assert calls(finished.places) == cells


async def test_a_second_call_does_only_what_is_not_done(finished: Finished, places: Places) -> None:
    shutil.copytree(finished.places.folder, places.folder, dirs_exist_ok=True)
    shutil.copytree(finished.places.results, places.results)
    before = len(calls(places))
    report = await run(grid(), places)
    assert report.done == ()
    assert calls(places)[before:] == ["train crash-s0 --resume"]


def test_results_stand_for_their_runs_in_a_fresh_clone(finished: Finished, tmp_path: Path) -> None:
    """No run folder is there, the committed results are: nothing is left but the cell that crashed."""
    places = Places(tmp_path / "nothing", finished.places.results)
    stages = {state.cell.name: state.stage for state in look(make_cells(grid()), places)}
    assert stages == {"fast-s0": Stage.DONE, "crash-s0": Stage.TO_DO, "fast-s1": Stage.DONE}


def test_a_result_holds_what_the_run_and_its_evaluations_measured(finished: Finished) -> None:
    result = read_result(finished.places.result("grid", "fast-s1"))
    assert result is not None
    assert result.final is not None
    assert result.initial is not None
    assert (result.seed, result.updates, result.trials, result.arm) == (1, 4, 960, "fast")
    assert (result.final.pass_at, result.initial.pass_at) == ((0.2, 0.5, 0.8), (0.2, 0.3, 0.4))
    assert result.final.low == (0.18, 0.48, 0.78)
    assert result.evaluations["more"].measurement.n == 7
    assert result.curve.updates == (1, 2, 3, 4)
    assert result.curve.pass_at[2][-1] == pytest.approx(0.3)
    assert result.figures == {"staleness/mean": 0.5}
    assert result.command == "lamer train -c doors.yaml batch.updates=4 tracking.mlflow=false run.seed=1"


async def test_another_configuration_of_a_cell_is_run_again_and_its_old_run_is_kept(places: Places) -> None:
    fast: list[dict[str, object]] = [{"name": "fast", "seeds": [0]}]
    await run(grid(fast), places)
    (state,) = look(make_cells(grid(fast, overrides=["loss.entropy=0.5", "batch.updates=4"])), places)
    assert (state.stage, state.changed) == (Stage.TO_DO, ("loss.entropy",))
    report = await run(grid(fast, overrides=["loss.entropy=0.5", "batch.updates=4"]), places)
    assert report.done == ("fast-s0",)
    assert (places.folder / "grid" / "fast-s0.replaced-1" / "summary.json").is_file()
    times = places.folder / "grid" / "logs" / "fast-s0.seconds"
    assert len(times.read_text().split()) == 1, "only the new run's time counts"


async def test_more_updates_make_a_run_longer_and_its_new_model_is_evaluated_again(places: Places) -> None:
    fast: list[dict[str, object]] = [{"name": "fast", "seeds": [0]}]
    more = [{"name": "more", "overrides": ["evaluation.tasks=7"]}]
    await run(grid(fast, evaluations=more), places)
    await run(grid(fast, evaluations=more, overrides=["batch.updates=6"]), places)
    evaluated = "eval fast-s0.more"
    assert calls(places) == ["train fast-s0", evaluated, "train fast-s0 --resume", evaluated]


async def test_an_added_evaluation_is_made_of_the_model_that_is_there(places: Places) -> None:
    fast: list[dict[str, object]] = [{"name": "fast", "seeds": [0]}]
    await run(grid(fast), places)
    added = grid(fast, evaluations=[{"name": "more", "overrides": ["evaluation.tasks=7"]}])
    (state,) = look(make_cells(added), places)
    assert (state.stage, [each.name for each in state.left]) == (Stage.TRAINED, ["more"])
    await run(added, places)
    assert calls(places) == ["train fast-s0", "eval fast-s0.more"]
    assert [state.stage for state in look(make_cells(added), places)] == [Stage.DONE]


async def test_the_same_cell_of_another_experiment_is_not_trained_again(places: Places) -> None:
    """Its result serves as it is; for an evaluation of its own the other's model is used."""
    await run(grid([{"name": "fast", "seeds": [0]}]), places)
    same = grid([{"name": "mine", "seeds": [0]}], name="other")
    (state,) = look(make_cells(same), places)
    assert state.stage is Stage.DONE
    assert state.result is not None
    assert (state.result.cell, state.result.run) == ("mine-s0", "grid/fast-s0")
    more = [{"name": "more", "overrides": ["evaluation.tasks=7"]}]
    report = await run(grid([{"name": "mine", "seeds": [0]}], name="other", evaluations=more), places)
    assert report.done == ("mine-s0",)
    assert calls(places, "other") == ["eval mine-s0.more"]


async def test_ctrl_c_ends_the_running_cell_and_the_next_call_resumes_it(places: Places) -> None:
    experiment = grid([{"name": "slow", "seeds": [0, 1]}])
    going = asyncio.create_task(run(experiment, places))
    await until((places.folder / "grid" / "slow-s0" / "metrics.jsonl").exists)
    os.kill(os.getpid(), signal.SIGINT)
    report = await going
    assert (report.done, report.failures, exit_code(report)) == ((), (), 130)

    (places.folder / "grid" / "go").touch()
    again = await run(experiment, places)
    assert (again.done, exit_code(again)) == (("slow-s0", "slow-s1"), 0)
    assert calls(places) == ["train slow-s0", "train slow-s0 --resume", "train slow-s1"]
    result = read_result(places.result("grid", "slow-s0"))
    seconds = [float(line) for line in (places.folder / "grid" / "logs" / "slow-s0.seconds").read_text().split()]
    assert result is not None
    assert len(seconds) == 2
    assert result.wall_seconds == pytest.approx(sum(seconds), abs=0.11)


async def test_a_killed_run_is_resumed_by_the_next_call(places: Places) -> None:
    """The run's process dies of SIGKILL: the cell failed, and the next call goes on with it."""
    experiment = grid([{"name": "slow", "seeds": [0]}])
    going = asyncio.create_task(run(experiment, places))
    await until((places.folder / "grid" / "slow-s0" / "metrics.jsonl").exists)
    kill_child("slow-s0")
    report = await going
    assert [failure.problem.partition(" (")[0] for failure in report.failures] == ["was killed by SIGKILL"]
    (places.folder / "grid" / "go").touch()
    assert (await run(experiment, places)).done == ("slow-s0",)
    assert calls(places)[-1] == "train slow-s0 --resume"


async def until(is_true: Callable[[], object]) -> None:
    """Poll a fact that another process brings about."""
    async with asyncio.timeout(240):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def kill_child(name: str) -> None:
    import psutil

    (child,) = (each for each in psutil.Process().children() if name in each.cmdline())
    child.kill()


async def test_a_run_that_can_not_be_resumed_is_kept_and_started_again(places: Places) -> None:
    experiment = grid([{"name": "bad", "seeds": [0]}])
    await run(experiment, places)
    said: list[str] = []
    await run(experiment, places, said=said.append)
    assert calls(places) == ["train bad-s0", "train bad-s0 --resume", "train bad-s0"]
    assert any("can't go on, the checkpoint is of other settings" in line for line in said)
    assert (places.folder / "grid" / "bad-s0.replaced-1").is_dir()


async def test_several_cells_run_at_once(places: Places) -> None:
    """Both wait for a file that is made when both have started: one at a time would wait for ever."""
    experiment = grid([{"name": "slow", "seeds": [0, 1]}])
    going = asyncio.create_task(run(experiment, places, parallel=2))
    await until(lambda: len(calls(places)) == 2)
    (places.folder / "grid" / "go").touch()
    assert sorted((await going).done) == ["slow-s0", "slow-s1"]
