"""The kinds of blocks that a page is made of: what makes the table and the plot of each.

    pass_at       arms x pass@k of one evaluation; pass@k over k
    axis          pass@k over the values of an axis
    evaluations   arms x evaluations, pass@k of the last k
    curves        training's pass@k over the updates
    diversity     entropy of trajectories and what goes with it
    figures       arms x metrics of the end of training

A new kind is a line here and an entry in `KINDS`; an experiment with any other is refused when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from lamer.deploy.experiments import plots, tables
from lamer.deploy.experiments.definition import Block, Experiment
from lamer.deploy.experiments.rows import Results
from lamer.deploy.experiments.tables import Table


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes a block's table and its plot, None where the kind has none. A plot is None while nothing was measured.

    is_over_an_axis: whether the block names an axis of the experiment.
    """

    table: Callable[[Experiment, Results, Block], Table] | None
    plot: Callable[[Experiment, Results, Block], Figure | None] | None
    is_over_an_axis: bool = False


KINDS: Mapping[str, Kind] = {
    "pass_at": Kind(tables.pass_at_table, plots.plot_attempts),
    "axis": Kind(tables.axis_table, plots.plot_axis, is_over_an_axis=True),
    "evaluations": Kind(tables.evaluations_table, plots.plot_evaluations),
    "curves": Kind(None, plots.plot_curves),
    "diversity": Kind(tables.diversity_table, plots.plot_diversity),
    "figures": Kind(tables.figures_table, None),
}


def table(experiment: Experiment, results: Results, block: Block) -> Table | None:
    """The table of a block, None for one that is a plot alone."""
    make = KINDS[block.kind].table
    return None if make is None else make(experiment, results, block)


def plot(experiment: Experiment, results: Results, block: Block) -> Figure | None:
    """The plot of a block, None where it has none or nothing has been measured for it."""
    make = KINDS[block.kind].plot
    return None if make is None or not block.plot else make(experiment, results, block)
