"""What the engine benchmark is shown as."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lamer.deploy.bench.engine import EngineBenchReport


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
