"""What all figures look like: colours, size, references as dashed lines named in the margin, axes.

No pyplot: nothing global, so any thread may draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
DPI = 140
_SMALLEST_GAP = 0.055


def new_figure(height: float = 4.0) -> Figure:
    """An empty figure of the usual width, `height` inches high."""
    figure = Figure(figsize=(8.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def mark(axes: Axes, marks: Sequence[tuple[str, float]]) -> None:
    """Dashed lines with their names in the right margin, moved apart where they would overlap."""
    previous = -1.0
    for name, value in sorted(marks, key=lambda mark: mark[1]):
        axes.axhline(value, color=GREY, linestyle=(0, (5, 4)), linewidth=1.0, zorder=1)
        height = max(value, previous + _SMALLEST_GAP)
        previous = height
        axes.annotate(
            f"{name.replace('_', ' ')} {value:.3f}",
            xy=(1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=GREY,
        )


def finish(axes: Axes, title: str, unit: str, curves: int) -> None:
    """Title, unit of the y axis, grid, and a legend where there are several curves."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel(unit)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if curves > 1:
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, ncols=curves, loc="best")


def show_shares(axes: Axes) -> None:
    """A y axis of shares, 0 .. 1 as percentages."""
    axes.set_ylim(-0.02, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
