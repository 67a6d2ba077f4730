"""How far an experiment is: which cells are done, half done or still to do, told from files alone.

    FOLDER/NAME/CELL                  the run of a cell            FOLDER/NAME/CELL.EVALUATION   that of an evaluation
    FOLDER/NAME/logs/RUN.log          what its command printed     logs/RUN.seconds              how long each call took
    RESULTS/NAME/cells/CELL.json      its result                   RESULTS/NAME.md, NAME/*.svg   the page

A cell is done when its result is there with the cell's configuration, whether or not its run folder is. A run of
another experiment with the same configuration serves as well. Nothing is ever deleted: what is in the way is renamed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from lamer.common import config
from lamer.common.config import config_hash
from lamer.common.errors import LamerError
from lamer.deploy.experiments.cells import Cell, CellEvaluation, differences, grid, identity, make_cells
from lamer.deploy.experiments.definition import Experiment
from lamer.deploy.experiments.results import CellResult, EvaluationRecord, is_finished, read_result, recorded_hash
from lamer.deploy.run.folder import CONFIG_FILE


class Stage(enum.Enum):
    """How far a cell is."""

    DONE = "done"
    TRAINED = "trained, results left"
    HALF = "half trained"
    TO_DO = "to do"


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs and results lie. folder: of all experiments' runs. results: of all experiments' results."""

    folder: Path
    results: Path

    def runs(self, experiment: str) -> Path:
        """The folder of an experiment's runs."""
        return self.folder / experiment

    def run(self, cell: Cell) -> Path:
        """A cell's run."""
        return self.runs(cell.experiment) / cell.name

    def evaluation_run(self, cell: Cell, evaluation: CellEvaluation) -> Path:
        """The run of an evaluation."""
        return self.runs(cell.experiment) / cell.evaluation_run(evaluation.name)

    def result(self, experiment: str, cell: str) -> Path:
        """A cell's result."""
        return self.results / experiment / "cells" / f"{cell}.json"

    def page(self, experiment: str) -> Path:
        """An experiment's page."""
        return self.results / f"{experiment}.md"

    def plots(self, experiment: str) -> Path:
        """The folder of an experiment's plots."""
        return self.results / experiment

    @property
    def index(self) -> Path:
        """The page of all experiments, beside the folder of results."""
        return self.results.with_name(f"{self.results.name}.md")


@dataclass(frozen=True, slots=True)
class CellState:
    """How far a cell is.

    result: what is known of it, with those evaluations that are still wanted. left: evaluations to be made. trained:
    the folder of its finished run, or of another experiment's. changed: keys in which a result or run that lies at its
    place is of another configuration.
    """

    cell: Cell
    stage: Stage
    result: CellResult | None = None
    left: tuple[CellEvaluation, ...] = ()
    trained: Path | None = None
    changed: tuple[str, ...] = ()


def look(cells: Sequence[Cell], places: Places) -> tuple[CellState, ...]:
    """How far every cell is.

    Raises:
        BadInput: a result's file holds something else.
    """
    results = read_all_results(places)
    return tuple(_look_at(cell, places, results) for cell in cells)


def usable_results(experiment: Experiment, places: Places) -> tuple[dict[str, CellResult], str]:
    """The results that an experiment's page is made of, by cell in the order of its grid, and what was left out.

    A result of another configuration than today's is left out. Where today's can't be resolved, none is.
    """
    try:
        states = look(make_cells(experiment), places)
    except LamerError as error:
        found = {each.cell: each for each in read_all_results(places) if each.experiment == experiment.name}
        return {key.name: found[key.name] for key in grid(experiment) if key.name in found}, str(error)
    other = [state for state in states if state.result is None and state.changed]
    said = [f"{state.cell.name} is of another configuration ({', '.join(state.changed[:3])})" for state in other]
    return {state.cell.name: state.result for state in states if state.result is not None}, "; ".join(said)


def has_results(experiment: Experiment, places: Places) -> bool:
    """Whether a cell of the experiment has a result of its own."""
    return any(places.result(experiment.name, key.name).is_file() for key in grid(experiment))


def read_all_results(places: Places) -> tuple[CellResult, ...]:
    """Every result of every experiment, by experiment and cell."""
    found = (read_result(path) for path in sorted(places.results.glob("*/cells/*.json")))
    return tuple(result for result in found if result is not None)


def _look_at(cell: Cell, places: Places, results: Iterable[CellResult]) -> CellState:
    """How far the cell is by its results, and by its run where they don't say everything."""
    own = read_result(places.result(cell.experiment, cell.name))
    changed = differences(own.settings, cell.settings) if own is not None else ()
    result = _known_result(cell, None if changed else own, results)
    left = tuple(each for each in cell.evaluations if result is None or each.name not in result.evaluations)
    if result is not None and not left:
        return CellState(cell, Stage.DONE, result)
    return _look_at_run(CellState(cell, Stage.TO_DO, result, left, None, changed), places)


def _known_result(cell: Cell, own: CellResult | None, results: Iterable[CellResult]) -> CellResult | None:
    """What all results of the cell's configuration say of it together, its own before those of other cells."""
    same = [each for each in results if not differences(each.settings, cell.settings)]
    if own is not None:
        same.insert(0, own)
    records = {key: record for each in reversed(same) for key, record in _wanted_records(cell, each).items()}
    return _adopted(cell, same[0], records) if same else None


def _look_at_run(state: CellState, places: Places) -> CellState:
    """The state with the stage of the cell's run, or of a finished one of the same configuration elsewhere."""
    cell, run = state.cell, places.run(state.cell)
    differing = _differing_keys(run, cell) if run.exists() else ()
    if run.exists() and _can_go_on(run, cell, differing):
        finished = is_finished(run, cell.settings.batch.updates)
        return replace(state, stage=Stage.TRAINED if finished else Stage.HALF, trained=run if finished else None)
    elsewhere = _same_run(cell, places)
    if elsewhere is not None:
        return replace(state, stage=Stage.TRAINED, trained=elsewhere)
    return replace(state, changed=state.changed or differing)


def is_same_evaluation(run: Path, evaluation: CellEvaluation) -> bool:
    """Whether a run folder holds a finished run of an evaluation as it is wanted now."""
    recorded = _recorded(run)
    return (
        recorded is not None
        and not differences(recorded, evaluation.settings, is_evaluation=True)
        and is_finished(run, updates=0)
    )


def set_aside(path: Path) -> None:
    """Rename a run folder that is in the way, if there is one, and the times of its calls: NAME.replaced-1, -2, ..."""
    number = 1
    while (target := path.with_name(f"{path.name}.replaced-{number}")).exists():
        number += 1
    if path.exists():
        path.rename(target)
        if (times := _log_file(path, "seconds")).exists():
            times.rename(_log_file(target, "seconds"))


def spent_seconds(run: Path) -> float:
    """The seconds that the calls for a run have taken so far, interrupted ones included; 0 where none was measured."""
    file = _log_file(run, "seconds")
    return sum(float(line) for line in file.read_text(encoding="utf-8").split()) if file.is_file() else 0.0


def add_seconds(run: Path, seconds: float) -> None:
    """Note what a call for a run has taken."""
    with _log_file(run, "seconds").open("a", encoding="utf-8") as file:
        file.write(f"{seconds:.1f}\n")


def log_file(run: Path) -> Path:
    """Where the commands for a run write; its folder is created."""
    return _log_file(run, "log")


def _log_file(run: Path, kind: str) -> Path:
    folder = run.parent / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{run.name}.{kind}"


def _wanted_records(cell: Cell, result: CellResult) -> dict[str, EvaluationRecord]:
    """Those evaluations of a result, under whatever name, that the cell wants; its training is the cell's."""
    return {
        wanted.name: record
        for wanted in cell.evaluations
        for record in result.evaluations.values()
        if not differences(record.settings, wanted.settings, is_evaluation=True)
    }


def _adopted(cell: Cell, result: CellResult, records: Mapping[str, EvaluationRecord]) -> CellResult:
    """A result as the cell's own, whichever experiment made it."""
    is_own = (result.experiment, result.cell) == (cell.experiment, cell.name)
    return msgspec.structs.replace(
        result,
        experiment=cell.experiment,
        cell=cell.name,
        arm=cell.key.arm,
        at=dict(cell.key.at),
        evaluations=dict(records),
        run=result.run if is_own else result.run or f"{result.experiment}/{result.cell}",
    )


def _recorded(run: Path) -> dict[str, str] | None:
    """The `identity` of a run's configuration, None where that can't be read any more."""
    try:
        return identity(config.load([run / CONFIG_FILE]))
    except LamerError:
        return None


def _differing_keys(run: Path, cell: Cell) -> tuple[str, ...]:
    recorded = _recorded(run)
    return differences(recorded, cell.settings) if recorded is not None else (str(run / CONFIG_FILE),)


def _can_go_on(run: Path, cell: Cell, differing: tuple[str, ...]) -> bool:
    """Whether the run is the cell's, or a shorter one that can be made longer."""
    if differing != ("batch.updates",):
        return not differing
    return int((_recorded(run) or {})["batch.updates"]) < cell.settings.batch.updates


def _same_run(cell: Cell, places: Places) -> Path | None:
    """A finished run of any experiment with the cell's configuration."""
    wanted = config_hash(cell.settings)
    for run in sorted(path.parent for path in places.folder.glob("*/*/summary.json")):
        is_same = recorded_hash(run) == wanted and is_finished(run, cell.settings.batch.updates)
        if is_same and not _differing_keys(run, cell):
            return run
    return None
