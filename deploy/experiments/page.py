"""An experiment's page: its question, tables beside the paper's figures, plots, and every cell's command and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lamer.deploy.experiments.blocks import plot, table
from lamer.deploy.experiments.cells import grid
from lamer.deploy.experiments.definition import Experiment
from lamer.deploy.experiments.plots import save
from lamer.deploy.experiments.results import CellResult
from lamer.deploy.experiments.rows import Results
from lamer.deploy.experiments.state import Places
from lamer.deploy.run.folder import write_text

INTERVALS = (
    "Shares are in percent, means over seeds with their 95% interval: of one seed by bootstrap over its tasks, of "
    "several by Student's t over the seeds. References (in italics) are exact or scripted policies."
)


def write_page(experiment: Experiment, results: Results, places: Places) -> Path:
    """Write the page and its plots; the page's file.

    Args:
        results: of the experiment's cells, by cell; what is not in the grid is left out.
    """
    drawn: dict[int, str] = {}
    for index, block in enumerate(experiment.page):
        figure = plot(experiment, results, block)
        path = places.plots(experiment.name) / f"{index + 1}-{block.kind}.svg"
        if figure is not None:
            save(figure, path)
            drawn[index] = f"{experiment.name}/{path.name}"
    path = places.page(experiment.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(experiment, results, drawn))
    return path


def page(experiment: Experiment, results: Results, plots: Mapping[int, str]) -> str:
    """The page as Markdown.

    Args:
        plots: of blocks, by their index: the image, relative to the page.
    """
    names = [key.name for key in grid(experiment)]
    known = {name: results[name] for name in names if name in results}
    parts = [f"# {experiment.title}", experiment.question, state_line(experiment, known), INTERVALS]
    for index, block in enumerate(experiment.page):
        parts.append(f"## {block.title}")
        made = table(experiment, known, block)
        if made is not None:
            parts.append(made.markdown())
        if index in plots:
            parts.append(f"![{block.title}]({plots[index]})")
        elif made is None:
            parts.append("Not run yet.")
    parts += [*_paper(experiment), *_not_run(experiment, names, known), *_runs(known)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def missing_evaluations(experiment: Experiment, result: CellResult) -> tuple[str, ...]:
    """Evaluations that the experiment asks for and the cell's result lacks."""
    wanted = (each.name for each in experiment.evaluations_of(result.arm))
    return tuple(name for name in wanted if name not in result.evaluations)


def finished(experiment: Experiment, known: Mapping[str, CellResult]) -> int:
    """How many cells are trained and evaluated."""
    return sum(not missing_evaluations(experiment, result) for result in known.values())


def state_line(experiment: Experiment, known: Mapping[str, CellResult]) -> str:
    """How much of the grid is there, what it took, and by which command."""
    cells, command = len(grid(experiment)), f"`lamer experiment {experiment.name}`"
    if not cells:
        return "Not run: see the reasons below."
    minutes = sum(total_seconds(result) for result in known.values()) / 60
    updates = sum(result.updates for result in known.values())
    done = f"{finished(experiment, known)} of {cells} cells"
    return f"Made by {command}: {done}, {updates:,} updates, {minutes:.0f} min of wall time."


def total_seconds(result: CellResult) -> float:
    """Wall time of a cell's training and of its evaluations."""
    return result.wall_seconds + sum(record.seconds for record in result.evaluations.values())


def _paper(experiment: Experiment) -> Iterator[str]:
    if experiment.paper_says:
        yield "## What the paper says"
        yield "\n".join(f"- {fact.fact} ({fact.source})" for fact in experiment.paper_says)


def _not_run(experiment: Experiment, names: Sequence[str], known: Mapping[str, CellResult]) -> Iterator[str]:
    lines = [f"- {each.what}: {each.why}" for each in experiment.not_run]
    for reason in dict.fromkeys(arm.not_run for arm in experiment.arms if arm.not_run):
        lines.append(f"- {', '.join(dict.fromkeys(a.label for a in experiment.arms if a.not_run == reason))}: {reason}")
    missing = [name for name in names if name not in known]
    if missing:
        lines.append(f"- cells not run yet: {', '.join(missing)}")
    for name, result in known.items():
        if left := missing_evaluations(experiment, result):
            lines.append(f"- evaluations of {name} not run yet: {', '.join(left)}")
    if lines:
        yield "## Not run"
        yield "\n".join(lines)


def _runs(known: Mapping[str, CellResult]) -> Iterator[str]:
    """Every cell's seed, cost and command."""
    if not known:
        return
    yield "## Runs"
    lines = [
        "| cell | seed | wall time | updates | trials | response tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in known.items():
        cost = f"{run.wall_seconds / 60:.1f} min | {run.updates} | {run.trials:,} | {run.response_tokens:,}"
        lines.append(f"| {name} | {run.seed} | {cost} |")
    yield "\n".join(lines)
    yield "Their commands, and those of the evaluations of their models:"
    yield "\n".join(line for name, result in known.items() for line in _commands(name, result))


def _commands(name: str, result: CellResult) -> Iterator[str]:
    taken = f" (the run {result.run})" if result.run else ""
    yield f"- {name}{taken}: `{result.command}`"
    for evaluation, record in result.evaluations.items():
        yield f"  - {evaluation}, {record.seconds:.0f} s: `{record.command}`"
