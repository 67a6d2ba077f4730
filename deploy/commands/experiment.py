"""`lamer experiment`: grids of runs with seeds, resumable cell by cell, and the pages made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer.deploy.commands.options import run_async

if TYPE_CHECKING:
    from lamer.deploy.experiments.cells import Cell
    from lamer.deploy.experiments.definition import Experiment
    from lamer.deploy.experiments.state import CellState, Places

Name = Annotated[str, typer.Argument(metavar="NAME", help="A ready experiment, or a YAML file.", show_default=False)]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="PATTERN", help="Cells or arms of this name (* ?); repeatable.")
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N,N", help="Only cells of these seeds.")]
List = Annotated[bool, typer.Option("--list", help="List the experiments, or NAME's cells, and start nothing.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show cells, how far they are and how long they will take.")]
Page = Annotated[bool, typer.Option("--page", help="Only make the page again.")]
Index = Annotated[bool, typer.Option("--index", help="Only make the page of all experiments again.")]
Parallel = Annotated[int, typer.Option("--parallel", min=1, help="Cells at once.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Results and pages, to be committed.")]
Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Runs of experiments, one folder each.")]


def experiment(
    name: Name = "",
    only: Only = None,
    seeds: Seeds = "",
    is_list: List = False,
    dry_run: DryRun = False,
    page: Page = False,
    index: Index = False,
    parallel: Parallel = 1,
    results: Results = Path("docs/results"),
    folder: Folder = Path("experiments"),
) -> None:
    """Run what of an experiment is not done yet, and make its page."""
    from importlib.util import find_spec

    from lamer.common.errors import BadInput, Missing

    if find_spec("matplotlib") is None:
        raise Missing("experiments draw with matplotlib, which is not installed: pip install 'lamer[mlflow]'")
    from lamer.deploy.experiments import reading
    from lamer.deploy.experiments.cells import make_cells
    from lamer.deploy.experiments.state import Places, look

    places = Places(folder, results)
    if index:
        _write_index(places)
        return
    if not name:
        if is_list:
            _list_experiments(places)
            return
        raise BadInput(f"which experiment? Name one: {', '.join(reading.ready())}")
    chosen = reading.read(name)
    if page:
        _write_pages(chosen, places)
        return
    states = look(_selected(make_cells(chosen), only or [], seeds, chosen), places)
    if is_list or dry_run:
        _print_states(states, with_commands=dry_run)
        return
    run_async(_run(chosen, states, places, parallel))


async def _run(chosen: Experiment, states: tuple[CellState, ...], places: Places, parallel: int) -> int:
    """Run the cells that are left, make the pages whatever came of them, and give the exit code."""
    from lamer.deploy.experiments.estimate import estimates
    from lamer.deploy.experiments.results import write_result
    from lamer.deploy.experiments.runner import Runner, exit_code
    from lamer.deploy.experiments.state import Stage

    for state in states:
        if state.stage is Stage.DONE and state.result is not None:
            write_result(places.result(chosen.name, state.cell.name), state.result)
    left = [each for each in estimates(states) if each.state.stage is not Stage.DONE]
    known = sum(each.seconds or 0.0 for each in left)
    about = f", about {known / 60 / parallel:.0f} min for those whose like was run" if known else ""
    _say(f"{chosen.name}: {len(states) - len(left)} of {len(states)} cells are done, {len(left)} to do{about}")
    report = await Runner(places, _say, parallel).run([each.state for each in left])
    _write_pages(chosen, places)
    return exit_code(report)


def _selected(cells: tuple[Cell, ...], only: list[str], seeds: str, chosen: Experiment) -> tuple[Cell, ...]:
    """The cells that the options name.

    Raises:
        BadInput: they name none, or a seed is no number.
    """
    from fnmatch import fnmatchcase

    from lamer.common.errors import BadInput

    try:
        wanted = {int(seed) for seed in seeds.split(",")} if seeds else {cell.key.seed for cell in cells}
    except ValueError as error:
        raise BadInput(f"--seeds {seeds!r} must be whole numbers with commas between them") from error
    selected = tuple(
        cell
        for cell in cells
        if cell.key.seed in wanted
        and (not only or any(fnmatchcase(name, each) for each in only for name in (cell.name, cell.key.arm)))
    )
    if cells and not selected:
        names = ", ".join(cell.name for cell in cells)
        raise BadInput(f"no cell of {chosen.name} is called {' or '.join(only) or f'..-s{seeds}'}; there are {names}")
    return selected


def _list_experiments(places: Places) -> None:
    from rich.console import Console
    from rich.table import Table

    from lamer.deploy.experiments import reading
    from lamer.deploy.experiments.cells import grid

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "cells with results", "what it shows"):
        table.add_column(heading)
    for each in reading.read_ready():
        done = sum(places.result(each.name, key.name).is_file() for key in grid(each))
        table.add_row(each.name, f"{done} of {len(grid(each))}", each.title)
    Console().print(table)


def _print_states(states: tuple[CellState, ...], *, with_commands: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from lamer.deploy.experiments.estimate import estimates
    from lamer.deploy.experiments.state import Stage

    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("cell", "state", "still takes about"):
        table.add_column(heading, overflow="fold")
    for each in estimates(states):
        state = each.state
        what = state.stage.value + (
            f" (there is one with another {', '.join(state.changed[:3])})" if state.changed else ""
        )
        if state.stage is Stage.DONE and state.result is not None:
            time = f"took {state.result.wall_seconds / 60:.1f} min"
        else:
            time = "unknown" if each.seconds is None else f"{each.seconds / 60:.1f} min"
        table.add_row(state.cell.name, what, time)
    console.print(table)
    if with_commands:
        for state in states:
            console.print(f"{state.cell.name}: {state.cell.shown_command()}", soft_wrap=True, highlight=False)
            for evaluation in state.left:
                command = state.cell.shown_command(evaluation)
                console.print(f"  {evaluation.name}: {command}", soft_wrap=True, highlight=False)


def _write_pages(chosen: Experiment, places: Places) -> None:
    """The experiment's page and the index."""
    from lamer.deploy.experiments.page import write_page
    from lamer.deploy.experiments.state import usable_results

    results, left_out = usable_results(chosen, places)
    if left_out:
        _say(f"{chosen.name}: {left_out}")
    _say(f"page: {write_page(chosen, results, places)}")
    _write_index(places)


def _write_index(places: Places) -> None:
    """The index of the ready experiments, and a page for those that have none yet. Without results of its own an
    experiment is not resolved, which would take a second for each.
    """
    from lamer.deploy.experiments import reading
    from lamer.deploy.experiments.index import write_index
    from lamer.deploy.experiments.page import write_page
    from lamer.deploy.experiments.state import has_results, usable_results

    known = [
        (each, usable_results(each, places)[0] if has_results(each, places) else {}) for each in reading.read_ready()
    ]
    for each, results in known:
        if not places.page(each.name).is_file():
            write_page(each, results, places)
    _say(f"index: {write_index(known, places)}")


def _say(line: str) -> None:
    print(line, flush=True)
