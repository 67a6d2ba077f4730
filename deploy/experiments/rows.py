"""What stands in one row of a table and in one point of a plot: an arm, at one point of the axes, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lamer.deploy.experiments.cells import CellKey, points, value_text
from lamer.deploy.experiments.definition import FINAL, INITIAL, Arm, Axis, Block, Experiment, Value
from lamer.deploy.experiments.results import CellResult, Measurement
from lamer.deploy.experiments.statistics import Estimate, mean_share

Results = Mapping[str, CellResult]
"""Results by cell."""


@dataclass(frozen=True, slots=True)
class Row:
    """An arm at one point of the axes, measured by one evaluation.

    results, measurements: of the seeds that are there, in the arm's order. missing: seeds that are not. pass_at[k]:
    over those seeds. paper: the paper's shares (0 .. 1), None where it gives none; source: where.
    """

    arm: Arm
    at: tuple[tuple[str, Value], ...]
    label: str
    results: tuple[CellResult, ...]
    measurements: tuple[Measurement, ...]
    missing: tuple[int, ...]
    pass_at: tuple[Estimate, ...]
    paper: tuple[float | None, ...]
    source: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds measured."""
        return tuple(result.seed for result in self.results)

    def gain(self) -> float | None:
        """pass@K - pass@1: what later episodes add to the first; None where nothing was measured."""
        return self.pass_at[-1].mean - self.pass_at[0].mean if self.pass_at else None

    def mean(self, name: str) -> float | None:
        """The mean over seeds of a figure of `Measurement`, None where a seed lacks it."""
        return _mean([getattr(measurement, name) for measurement in self.measurements])

    def figure(self, name: str) -> float | None:
        """The mean over seeds of a figure of the end of training (`results.FIGURES`), None where a seed lacks it."""
        return _mean([result.figures.get(name) for result in self.results])


def make_rows(
    experiment: Experiment, results: Results, arms: Sequence[str] = (), evaluation: str = FINAL
) -> tuple[Row, ...]:
    """A row for each arm (all for none) at each point of the axes."""
    return tuple(
        _make_row(experiment, results, arm, at, evaluation)
        for arm in experiment.chosen_arms(arms)
        for at in points(experiment, arm)
    )


@dataclass(frozen=True, slots=True)
class AxisLine:
    """An arm over the values of one axis, the other axes held still; rows: in the order of the values."""

    label: str
    rows: tuple[Row, ...]


def axis_lines(experiment: Experiment, rows: Sequence[Row], axis: str) -> tuple[AxisLine, ...]:
    """Rows that differ in the axis alone, together; arms without that axis are left out."""
    lines: dict[tuple[str, tuple[tuple[str, Value], ...]], list[Row]] = {}
    for row in rows:
        if axis in dict(row.at):
            others = tuple(pair for pair in row.at if pair[0] != axis)
            lines.setdefault((row.arm.name, others), []).append(row)
    return tuple(AxisLine(_label(experiment, line[0].arm, others), tuple(line)) for (_, others), line in lines.items())


def axis_of(experiment: Experiment, block: Block) -> Axis:
    """The axis that a block is about."""
    return next(axis for axis in experiment.axes if axis.name == block.axis)


def measured(result: CellResult, evaluation: str) -> Measurement | None:
    """What an evaluation of a cell measured, if it has been made."""
    if evaluation == FINAL:
        return result.final
    if evaluation == INITIAL:
        return result.initial
    record = result.evaluations.get(evaluation)
    return record.measurement if record is not None else None


def references(results: Iterable[CellResult], evaluation: str = FINAL) -> dict[str, tuple[float, ...]]:
    """Exact and scripted figures of the tasks of an evaluation, by name."""
    found: dict[str, tuple[float, ...]] = {}
    for result in results:
        record = result.evaluations.get(evaluation)
        known = result.references if evaluation in (FINAL, INITIAL) else record.references if record else {}
        found.update({name: figures for name, figures in known.items() if name not in found})
    return found


def _make_row(
    experiment: Experiment, results: Results, arm: Arm, at: tuple[tuple[str, Value], ...], evaluation: str
) -> Row:
    seeds = () if arm.not_run else arm.seeds or experiment.seeds
    found = tuple(_measured_seeds(results, [CellKey(arm.name, at, seed) for seed in seeds], evaluation))
    done = {result.seed for result, _ in found}
    measurements = tuple(measurement for _, measurement in found)
    paper, source = _paper(experiment, arm, at, evaluation)
    return Row(
        arm=arm,
        at=at,
        label=_label(experiment, arm, at),
        results=tuple(result for result, _ in found),
        measurements=measurements,
        missing=tuple(seed for seed in seeds if seed not in done),
        pass_at=_pass_at(measurements),
        paper=paper,
        source=source,
    )


def _measured_seeds(
    results: Results, keys: Iterable[CellKey], evaluation: str
) -> Iterator[tuple[CellResult, Measurement]]:
    """Those of the cells that are there and were measured by the evaluation."""
    for key in keys:
        result = results.get(key.name)
        measurement = measured(result, evaluation) if result is not None else None
        if result is not None and measurement is not None:
            yield result, measurement


def _paper(
    experiment: Experiment, arm: Arm, at: tuple[tuple[str, Value], ...], evaluation: str
) -> tuple[tuple[float | None, ...], str]:
    """The paper's shares (0 .. 1) for an arm at one point of the axes, and where it gives them; () and "" for none."""
    for figure in experiment.paper:
        if (figure.arm, figure.evaluation, figure.at) == (arm.name, evaluation, dict(at)):
            return tuple(None if share is None else share / 100 for share in figure.pass_at), figure.source
    return (), ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _label(experiment: Experiment, arm: Arm, at: tuple[tuple[str, Value], ...]) -> str:
    titles = {axis.name: axis.label for axis in experiment.axes}
    return ", ".join([arm.label, *(f"{titles[axis]} {value_text(value)}" for axis, value in at)])


def _pass_at(measurements: Sequence[Measurement]) -> tuple[Estimate, ...]:
    """pass@k over seeds, for every k that all of them measured."""
    episodes = min((len(each.pass_at) for each in measurements), default=0)
    return tuple(
        mean_share(
            [each.pass_at[k] for each in measurements],
            [(each.low[k], each.high[k]) for each in measurements if len(each.low) > k],
        )
        for k in range(episodes)
    )
