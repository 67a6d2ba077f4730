"""What a finished run or benchmark is shown as: `summary.json` beside its references, figures, contenders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from common.messages import Metric

if TYPE_CHECKING:
    from deploy.bench.engine import EngineBenchReport

_PASS_AT = re.compile(r"^pass@(\d+)$")


@dataclass(frozen=True, slots=True)
class ResultRow:
    """pass_at[k]: share of tasks solved within k + 1 episodes, of this run or of a reference called `name`."""

    name: str
    pass_at: tuple[float, ...]
    is_ours: bool


def read_results(summary: Path) -> tuple[ResultRow, ...]:
    """The rows of `summary.json`: this run's evaluations first, then the references."""
    tree = json.loads(summary.read_text(encoding="utf-8"))
    ours = (("after training", tree.get("evaluation")), ("before training", tree.get("warm_start")))
    rows = [_row(f"{tree['run']}, {name}", figures, is_ours=True) for name, figures in ours]
    rows += [_row(name, figures, is_ours=False) for name, figures in tree["reference"].items()]
    return tuple(row for row in rows if row.pass_at)


def results_table(rows: Sequence[ResultRow]) -> Table:
    """Rows as a table for a terminal, or for a log."""
    table = Table(title="Share of tasks solved within k episodes", title_justify="left")
    table.add_column("")
    for k in range(1, max((len(row.pass_at) for row in rows), default=0) + 1):
        table.add_column(f"pass@{k}", justify="right")
    for row in rows:
        table.add_row(row.name, *(f"{value:.3f}" for value in row.pass_at), style="bold" if row.is_ours else "dim")
    return table


def print_results(summary: Path) -> None:
    """A finished run's evaluation beside the references, and where the rest is."""
    console = Console()
    rows = read_results(summary)
    if rows:
        console.print(results_table(rows))
    console.print(f"all figures: {summary}", highlight=False, soft_wrap=True)


def print_metrics(title: str, metrics: Sequence[Metric]) -> None:
    """Figures under a title, one a line."""
    print(title)
    for metric in metrics:
        print(f"  {metric.name:<28} {metric.value:g}")


def print_engine_bench(report: EngineBenchReport) -> None:
    """The contenders of the engine benchmark, and how many times as fast the embedded engine is."""
    plan = report.plan
    table = Table(
        title=f"{plan.requests} requests of {plan.prompt_tokens} + {plan.new_tokens} tokens, "
        f"{report.parameters / 1e6:.1f}M parameters, one thread",
        title_justify="left",
    )
    for heading in ("", "seconds", "new tokens/s", "embedded is", "by CPU time"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = (
        (report.embedded, 1.0, 1.0),
        (report.left_padded, report.over_left_padded, report.cpu_over_left_padded),
        (report.continuous, report.over_continuous, report.cpu_over_continuous),
    )
    for figure, wall, cpu in rows:
        speed = f"{figure.tokens_per_second:.0f}"
        table.add_row(figure.name, f"{figure.seconds:.1f}", speed, f"{wall:.2f}x", f"{cpu:.2f}x")
    Console().print(table)


def _row(name: str, figures: object, *, is_ours: bool) -> ResultRow:
    if not isinstance(figures, Mapping):
        return ResultRow(name, (), is_ours)
    found = {int(match.group(1)): float(value) for key, value in figures.items() if (match := _PASS_AT.match(key))}
    return ResultRow(name, tuple(found[k] for k in sorted(found)), is_ours)
