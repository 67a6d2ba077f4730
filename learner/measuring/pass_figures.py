"""Figures of a run's evaluations: pass@k over k, and over the updates. Bars and bands are 95% intervals over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lamer.learner.measuring.evaluation import FINAL, INITIAL, EvaluationResult
from lamer.learner.measuring.plots import COLOURS, GREY, finish, mark, new_figure, show_shares
from lamer.learner.measuring.result import ReferenceFigure

_TITLES = {INITIAL: "before training", FINAL: "after training"}
_LINES = ((0, (5, 4)), (0, (1, 2)), (0, (5, 2, 1, 2)), (0, (8, 3)))


def draw_evaluations(
    evaluations: Sequence[EvaluationResult], run: str, references: Sequence[ReferenceFigure]
) -> Figure | None:
    """pass@k over k of the first and the last version measured, and of every reference."""
    shown = [result for result in evaluations if result.name in _TITLES and result.n > 0]
    if not shown:
        return None
    figure = new_figure()
    axes = figure.subplots()
    for index, reference in enumerate(references):
        k = np.arange(1, len(reference.pass_at) + 1)
        line = _LINES[index % len(_LINES)]
        axes.plot(k, reference.pass_at, color=GREY, linewidth=1.0, linestyle=line, label=_readable(reference.name))
    for result in shown:
        trained = len(evaluations) > 1 or result.policy_version > 0
        title = _TITLES[result.name] if trained else f"version {result.policy_version}"
        _draw_bars(axes, result, f"{title} (memory: {result.memory.value})", COLOURS[int(result.name == FINAL)])
    rounds = f", {shown[-1].rounds} rounds" if shown[-1].rounds > 1 else ""
    finish(axes, f"{run}: {shown[-1].tasks} tasks{rounds}, solved within k episodes", "share of tasks", 2)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8, loc="best")
    show_shares(axes)
    axes.set_xlabel("k (episodes)")
    return figure


def draw_progress(
    evaluations: Sequence[EvaluationResult], run: str, references: Sequence[ReferenceFigure]
) -> Figure | None:
    """pass@k over the updates, where versions were measured during training."""
    results = sorted((result for result in evaluations if result.n > 0), key=lambda result: result.policy_version)
    if all(result.name in _TITLES for result in results):
        return None
    count = min(len(result.pass_at) for result in results)
    updates = [result.policy_version for result in results]
    figure = new_figure()
    axes = figure.subplots()
    for k in range(count):
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(updates, [result.pass_at[k] for result in results], "o-", color=colour, label=f"pass@{k + 1}")
        bands = [(result.intervals[k].low, result.intervals[k].high) for result in results]
        low, high = zip(*bands, strict=True)
        axes.fill_between(updates, low, high, color=colour, alpha=0.15, linewidth=0)
    known = [reference for reference in references if len(reference.pass_at) >= count]
    mark(axes, [(f"{each.name}: pass@{count}", each.pass_at[count - 1]) for each in known])
    finish(axes, f"{run}: evaluation tasks solved within k episodes", "share of tasks", count)
    show_shares(axes)
    axes.set_xlabel("update")
    return figure


def _draw_bars(axes: Axes, result: EvaluationResult, label: str, colour: str) -> None:
    k = np.arange(1, len(result.pass_at) + 1)
    shares = np.array(result.pass_at)
    ends = np.array([(interval.low, interval.high) for interval in result.intervals]).T
    distances = np.maximum(np.stack([shares - ends[0], ends[1] - shares]), 0.0)
    axes.errorbar(k, shares, yerr=distances, color=colour, marker="o", capsize=3, linewidth=2.0, label=label)


def _readable(name: str) -> str:
    return name.replace("_", " ")
