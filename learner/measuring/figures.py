"""A run's figures as PNG files, drawn from its `metrics.jsonl` and its evaluations.

    evaluation.png         pass@k of the first and the last policy version, with intervals, beside references
    evaluation_curve.png   pass@k of every version measured during training (`learner.measuring.pass_figures`)
    pass_at_k.png          pass@1, pass@2, ... of the training trials, and what later episodes add to the first
    reward_by_episode.png  mean reward of each episode of a trial
    staleness.png          age of the trials trained on
    throughput.png         trials and tokens a second, and where the trainer's time goes

Thin lines are the measurements, thick ones their running mean. References are dashed. Each figure is left out where
none of its metrics were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lamer.learner.measuring.evaluation import EvaluationResult
from lamer.learner.measuring.pass_figures import draw_evaluations, draw_progress
from lamer.learner.measuring.plots import COLOURS, DPI, finish, mark, new_figure, show_shares
from lamer.learner.measuring.result import ReferenceFigure

FloatSeries = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the updates: updates [n], ascending, and values [n]."""

    updates: FloatSeries
    values: FloatSeries

    def __len__(self) -> int:
        return len(self.values)

    def smoothed(self) -> FloatSeries:
        """Centred running mean over about a twentieth of the updates, [n]; narrower at the ends."""
        half = len(self.values) // 40
        total = np.concatenate([[0.0], np.cumsum(self.values)])
        index = np.arange(len(self.values))
        low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(self.values))
        return np.asarray((total[high] - total[low]) / (high - low), dtype=np.float64)


class History:
    """Every metric of a run by its name."""

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        self._curves = curves

    @classmethod
    def read(cls, path: Path) -> History:
        """Read `metrics.jsonl`: one object a line, "step" and metrics by name. Of a repeated step the last line counts.

        A last line that is still being written is left out; so is a file that is not there.
        """
        steps: dict[int, Mapping[str, object]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                tree = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(tree, dict) and isinstance(tree.get("step"), int):
                steps[tree["step"]] = tree
        points: dict[str, list[tuple[int, float]]] = {}
        for step in sorted(steps):
            for name, value in steps[step].items():
                if name != "step" and isinstance(value, (int, float)):
                    points.setdefault(name, []).append((step, float(value)))
        return cls({name: _curve(pairs) for name, pairs in points.items()})

    def get(self, name: str) -> Curve | None:
        """The metric called `name`, if the run has measured it."""
        return self._curves.get(name)

    def numbered(self, prefix: str) -> tuple[Curve, ...]:
        """The metrics prefix1, prefix2, ... up to the first that is not there."""
        found: list[Curve] = []
        while (curve := self._curves.get(f"{prefix}{len(found) + 1}")) is not None:
            found.append(curve)
        return tuple(found)


def draw_figures(
    metrics: Path,
    folder: Path,
    run: str,
    references: Sequence[ReferenceFigure] = (),
    evaluations: Sequence[EvaluationResult] = (),
) -> tuple[Path, ...]:
    """Draw what `metrics` and `evaluations` hold into `folder`; the files written."""
    history = History.read(metrics)
    figures = {
        "evaluation.png": draw_evaluations(evaluations, run, references),
        "evaluation_curve.png": draw_progress(evaluations, run, references),
        "pass_at_k.png": draw_pass_at(history, run, references),
        "reward_by_episode.png": draw_rewards(history, run),
        "staleness.png": draw_staleness(history, run),
        "throughput.png": draw_throughput(history, run),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, figure in figures.items():
        if figure is not None:
            temporary = folder / f".{name}"
            figure.savefig(temporary, dpi=DPI, format="png")
            written.append(temporary.replace(folder / name))
    return tuple(written)


def draw_pass_at(history: History, run: str, references: Sequence[ReferenceFigure]) -> Figure | None:
    """pass@k over the updates, and pass@N - pass@1: what the later episodes add to the first."""
    curves = history.numbered("train/pass@")
    if not curves:
        return None
    count = len(curves)
    figure = new_figure(height=6.4 if count > 1 else 4.0)
    axes = figure.subplots(2 if count > 1 else 1, 1, sharex=True, squeeze=False, height_ratios=(3, 2)[: min(count, 2)])
    top = axes[0][0]
    for k, curve in enumerate(curves):
        _plot(top, curve, f"pass@{k + 1}", COLOURS[k % len(COLOURS)])
    known = [reference for reference in references if len(reference.pass_at) >= count]
    mark(top, [(f"{each.name}: pass@{count}", each.pass_at[count - 1]) for each in known])
    finish(top, f"{run}: tasks solved within k episodes (training, sampled)", "share of trials", count)
    show_shares(top)
    if count > 1:
        low = axes[1][0]
        gain = Curve(curves[-1].updates, curves[-1].values - np.interp(curves[-1].updates, *_pair(curves[0])))
        _plot(low, gain, f"pass@{count} - pass@1", COLOURS[3])
        mark(low, [(each.name, each.pass_at[count - 1] - each.pass_at[0]) for each in known])
        finish(low, f"What later episodes add to the first: pass@{count} - pass@1", "share of trials", 1)
        low.set_ylim(min(-0.02, float(gain.values.min()) - 0.02), 1.04)
        low.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[-1][0].set_xlabel("update")
    return figure


def draw_rewards(history: History, run: str) -> Figure | None:
    """Mean reward of each episode, over the trials that played it."""
    curves = history.numbered("reward/episode_")
    if not curves:
        return None
    figure = new_figure()
    axes = figure.subplots()
    for k, curve in enumerate(curves):
        _plot(axes, curve, f"episode {k + 1}", COLOURS[k % len(COLOURS)])
    finish(axes, f"{run}: reward by episode (of the trials that played it)", "mean reward", len(curves))
    axes.set_xlabel("update")
    return figure


def draw_staleness(history: History, run: str) -> Figure | None:
    """Age in policy versions of the oldest token of the trials trained on."""
    mean, most = history.get("staleness/mean"), history.get("staleness/max")
    if mean is None:
        return None
    figure = new_figure()
    axes = figure.subplots()
    if most is not None:
        axes.plot(most.updates, most.values, ".", color=COLOURS[1], markersize=4.0, label="oldest of the batch")
    _plot(axes, mean, "mean of the batch", COLOURS[0])
    finish(axes, f"{run}: staleness of the trials trained on", "policy versions", 2)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("update")
    return figure


def draw_throughput(history: History, run: str) -> Figure | None:
    """Tokens and trials a second, and the seconds that the trainer computed and waited in each update."""
    panels: list[tuple[str, str, list[tuple[str, Curve]]]] = []
    for title, unit, names in (
        ("rollout", "response tokens / s", {"tokens": "rollout/tokens_per_second"}),
        ("rollout", "trials / s", {"trials": "rollout/trials_per_second"}),
        ("trainer", "seconds / update", {"computing": "trainer/seconds", "waiting": "trainer/wait_seconds"}),
    ):
        found = [(label, curve) for label, name in names.items() if (curve := history.get(name)) is not None]
        if found:
            panels.append((title, unit, found))
    if not panels:
        return None
    figure = new_figure(height=1.2 + 2.0 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for row, (title, unit, found) in enumerate(panels):
        panel = axes[row][0]
        for k, (label, curve) in enumerate(found):
            _plot(panel, curve, label, COLOURS[(row + k) % len(COLOURS)])
        finish(panel, f"{run}: throughput, {title}" if row == 0 else title, unit, len(found))
        panel.set_ylim(bottom=0.0)
    axes[-1][0].set_xlabel("update")
    return figure


def _curve(pairs: Sequence[tuple[int, float]]) -> Curve:
    updates, values = np.array(pairs, dtype=np.float64).T
    return Curve(updates, values)


def _pair(curve: Curve) -> tuple[FloatSeries, FloatSeries]:
    return curve.updates, curve.values


def _plot(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    """The measurements thin, their running mean thick; a dot where there is a single one."""
    axes.plot(curve.updates, curve.values, color=colour, alpha=0.3, linewidth=0.8)
    marker = "o" if len(curve) == 1 else None
    axes.plot(curve.updates, curve.smoothed(), color=colour, linewidth=2.0, label=label, marker=marker)
