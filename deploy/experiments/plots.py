"""Plots of a page as SVG, from an experiment and its cells' results; equal results give equal files.

Colours stand for arms, the same on every plot of a page; where a plot has one arm alone, for its values of the axes.
References are dashed. No pyplot: nothing global.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lamer.deploy.experiments.cells import value_text
from lamer.deploy.experiments.definition import FINAL, Block, Experiment
from lamer.deploy.experiments.rows import Results, Row, axis_lines, axis_of, make_rows, references
from lamer.deploy.experiments.tables import chosen_k
from lamer.deploy.run.folder import write_text
from lamer.learner.measuring.plots import COLOURS, GREY

_STYLES = ("-", "--", ":", "-.")
_SMALLEST_GAP = 0.055


def save(figure: Figure, path: Path) -> None:
    """Write a plot as SVG without a date or random names, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "lamer"})
    write_text(path, "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n")


def plot_attempts(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """pass@k over k: how much later episodes add."""
    rows = _measured(make_rows(experiment, results, block.arms, block.evaluation))
    if not rows:
        return None
    figure, axes = _figure()
    for index, row in enumerate(rows):
        _draw(experiment, axes, row, range(1, len(row.pass_at) + 1), range(len(row.pass_at)), index)
    last = max(len(row.pass_at) for row in rows)
    found = references([result for row in rows for result in row.results], block.evaluation)
    for shares in found.values():
        known = shares[:last]
        axes.plot(range(1, len(known) + 1), known, color=GREY, linestyle=(0, (5, 4)), linewidth=1.0, zorder=1)
    ends = [(name, shares[min(last, len(shares)) - 1]) for name, shares in found.items() if shares]
    _name_lines(axes, ends)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("episodes, k")
    return _finished(figure, axes, "tasks solved within k episodes")


def plot_axis(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """pass@k over the values of an axis, a line for each arm."""
    axis = axis_of(experiment, block)
    labels = [value_text(value) for value in axis.values]
    rows = _measured(make_rows(experiment, results, block.arms, block.evaluation))
    lines = axis_lines(experiment, rows, block.axis)
    if not lines:
        return None
    figure, axes = _figure()
    drawn: Counter[str] = Counter()
    for line in lines:
        xs = [labels.index(value_text(dict(row.at)[block.axis])) for row in line.rows]
        arm = line.rows[0].arm.name
        _draw_line(experiment, axes, line.rows, xs, block.k, line.label, drawn[arm])
        drawn[arm] += 1
    k = _k(rows, block.k)
    found = references([result for row in rows for result in row.results], block.evaluation)
    _draw_references(axes, range(len(labels)), [found] * len(labels), k)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(axis.label)
    return _finished(figure, axes, f"solved, pass@{k}")


def plot_evaluations(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """pass@k of each evaluation, a line for each arm."""
    names = block.evaluations or (FINAL, *(each.name for each in experiment.evaluations))
    by_evaluation = [make_rows(experiment, results, block.arms, name) for name in names]
    figure, axes = _figure()
    drawn: list[Row] = []
    for column in zip(*by_evaluation, strict=True):
        xs = [x for x, row in enumerate(column) if row.pass_at]
        if xs:
            rows = [column[x] for x in xs]
            _draw_line(experiment, axes, rows, xs, block.k, rows[0].label, 0)
            drawn += rows
    if not drawn:
        return None
    k = _k(drawn, block.k)
    known = [
        references([result for row in rows for result in row.results], name)
        for name, rows in zip(names, by_evaluation, strict=True)
    ]
    _draw_references(axes, range(len(names)), known, k)
    axes.set_xticks(range(len(names)), [experiment.evaluation_label(name) for name in names])
    return _finished(figure, axes, f"solved, pass@{k}")


def plot_curves(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """Training's pass@k over the updates: each seed thin, their mean thick."""
    figure, axes = _figure()
    is_empty = True
    rows = make_rows(experiment, results, block.arms)
    is_one_arm = len({row.arm.name for row in rows}) == 1
    shown: set[int] = set()
    for index, row in enumerate(rows):
        curves = [result.curve for result in row.results if result.curve.updates]
        if not curves:
            continue
        is_empty = False
        k = min(len(curve.pass_at) for curve in curves)
        chosen = min(block.k or k, k) - 1
        shown.add(chosen + 1)
        colour = COLOURS[index % len(COLOURS)] if is_one_arm else _colour(experiment, row)
        for curve in curves:
            axes.plot(curve.updates, curve.pass_at[chosen], color=colour, alpha=0.35, linewidth=0.9)
        grid = curves[0].updates
        mean = np.mean([np.interp(grid, curve.updates, curve.pass_at[chosen]) for curve in curves], axis=0)
        axes.plot(grid, mean, color=colour, linewidth=2.0, label=f"{row.label}, pass@{chosen + 1}")
    if is_empty:
        return None
    found = references([result for row in rows for result in row.results])
    if len(shown) == 1:
        _draw_references(axes, axes.get_xlim(), [found, found], shown.pop())
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, axes, "solved in training, sampled")


def plot_diversity(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """Entropy of the first episode's trajectories beside success: the exploration an arm keeps, and what it gains."""
    rows = _measured(make_rows(experiment, results, block.arms, block.evaluation))
    known = [(row, value) for row in rows if (value := row.mean("episode_diversity")) is not None]
    if not known:
        return None
    figure, axes = _figure()
    for row, value in known:
        last = row.pass_at[-1]
        bars = [[last.mean - last.low], [last.high - last.mean]]
        colour = _colour(experiment, row)
        axes.errorbar([value], [last.mean], yerr=bars, fmt="o", color=colour, capsize=3.0, label=row.label)
    axes.set_xlabel("entropy of a task's trajectories in the first episode, nats")
    axes.set_xlim(left=0.0)
    return _finished(figure, axes, f"solved, pass@{len(known[0][0].pass_at)}")


def _draw(experiment: Experiment, axes: Axes, row: Row, xs: Sequence[int], ks: Sequence[int], style: int) -> None:
    """One row's pass@k as a line with intervals."""
    chosen = [row.pass_at[k] for k in ks]
    means = [each.mean for each in chosen]
    bars = [[each.mean - each.low for each in chosen], [each.high - each.mean for each in chosen]]
    line = _STYLES[_rank(experiment, row) // len(COLOURS) % len(_STYLES)]
    shift = 0.012 * style  # so that intervals of equal height don't hide each other
    places = [x + shift for x in xs]
    axes.errorbar(
        places, means, yerr=bars, color=_colour(experiment, row), linestyle=line, marker="o", capsize=3.0,
        linewidth=1.8, markersize=4.5, label=row.label,
    )  # fmt: skip


def _draw_line(
    experiment: Experiment, axes: Axes, rows: Sequence[Row], xs: Sequence[int], k: int, label: str, style: int
) -> None:
    """One pass@k of several rows as a line with intervals."""
    chosen = [row.pass_at[chosen_k(row, k)] for row in rows]
    bars = [[each.mean - each.low for each in chosen], [each.high - each.mean for each in chosen]]
    line = _STYLES[(style + _rank(experiment, rows[0]) // len(COLOURS)) % len(_STYLES)]
    axes.errorbar(
        xs, [each.mean for each in chosen], yerr=bars, color=_colour(experiment, rows[0]), linestyle=line, marker="o",
        capsize=3.0, linewidth=1.8, markersize=4.5, label=label,
    )  # fmt: skip


def _draw_references(
    axes: Axes, xs: Sequence[float], by_place: Sequence[Mapping[str, Sequence[float]]], k: int
) -> None:
    """pass@k of each reference as a dashed line; by_place: what is known of them at each of the places `xs`."""
    ends = []
    for name in dict.fromkeys(name for found in by_place for name in found):
        points = [
            (x, found[name][k - 1]) for x, found in zip(xs, by_place, strict=True) if len(found.get(name, ())) >= k
        ]
        if points:
            axes.plot(*zip(*points, strict=True), color=GREY, linestyle=(0, (5, 4)), linewidth=1.0, zorder=1)
            ends.append((name, points[-1][1]))
    _name_lines(axes, ends)


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.pass_at]


def _k(rows: Sequence[Row], k: int) -> int:
    return k or max(len(row.pass_at) for row in rows)


def _rank(experiment: Experiment, row: Row) -> int:
    """The arm's place among those that stand on plots of the page."""
    shown = [arm.name for block in experiment.page if block.plot for arm in experiment.chosen_arms(block.arms)]
    drawn = [arm.name for arm in experiment.arms if arm.name in shown and not arm.not_run]
    return drawn.index(row.arm.name)


def _colour(experiment: Experiment, row: Row) -> str:
    return COLOURS[_rank(experiment, row) % len(COLOURS)]


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def _name_lines(axes: Axes, ends: Sequence[tuple[str, float]]) -> None:
    """Names of the references in the right margin, moved apart where they would overlap."""
    previous = -1.0
    for name, value in sorted(ends, key=lambda end: end[1]):
        height = previous = max(value, previous + _SMALLEST_GAP)
        text = f"{name.replace('_', ' ')} {100 * value:.1f}"
        place = ("axes fraction", "data")
        axes.annotate(text, xy=(1.01, height), xycoords=place, va="center", fontsize=8, color=GREY)


def _finished(figure: Figure, axes: Axes, unit: str) -> Figure:
    axes.set_ylabel(unit)
    axes.set_ylim(-0.02, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8, loc="best")
    return figure
