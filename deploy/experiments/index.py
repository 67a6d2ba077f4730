"""`results.md`: every experiment in a few lines, with its first table and where the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamer.deploy.experiments.blocks import table
from lamer.deploy.experiments.cells import grid
from lamer.deploy.experiments.definition import Experiment
from lamer.deploy.experiments.page import INTERVALS, finished, state_line
from lamer.deploy.experiments.rows import Results
from lamer.deploy.experiments.state import Places
from lamer.deploy.run.folder import write_text

_INTRODUCTION = (
    "Made by `lamer experiment --index` from the results that are committed beside the pages. `lamer experiment NAME` "
    "runs what of an experiment is missing and makes its page, which holds every cell's command, seed and wall time. "
    "The columns called *paper* give the numbers of Jiang et al., *Meta-RL Induces Exploration in Language Agents* "
    "(Qwen3-4B, unless said otherwise): another model and larger tasks, so that the order of the methods compares, not "
    "the level."
)


Known = Sequence[tuple[Experiment, Results]]
"""Experiments, each with its results."""


def write_index(known: Known, places: Places) -> Path:
    """Write the index beside the folder of results; its file."""
    path = places.index
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, index(known, places.results.name))
    return path


def index(known: Known, folder: str) -> str:
    """The index as Markdown. folder: of the pages, relative to it."""
    parts = ["# Results", _INTRODUCTION, INTERVALS, _contents(known, folder)]
    for experiment, results in known:
        parts += [f"## {experiment.title}", experiment.question, state_line(experiment, results)]
        made = table(experiment, results, experiment.page[0]) if experiment.page else None
        if made is not None:
            parts.append(made.markdown())
        if experiment.not_run:
            parts.append("\n".join(f"- not run: {each.what}: {each.why}" for each in experiment.not_run))
        parts.append(f"[More: plots, other tables, commands]({folder}/{experiment.name}.md)")
    return "\n\n".join(parts) + "\n"


def _contents(known: Known, folder: str) -> str:
    lines = ["| experiment | what it shows | cells |", "| --- | --- | ---: |"]
    for experiment, results in known:
        cells = len(grid(experiment))
        state = f"{finished(experiment, results)} of {cells}" if cells else "not run"
        lines.append(f"| [{experiment.name}]({folder}/{experiment.name}.md) | {experiment.title} | {state} |")
    return "\n".join(lines)
