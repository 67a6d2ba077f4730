"""`lamer bench`: throughput of the rollout and of the embedded engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure throughput.", no_args_is_help=True)
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the report as JSON.")]
Scale = Annotated[float, typer.Option("--scale", help="Size of batch and server, at most 1.")]
TimeScale = Annotated[float, typer.Option("--time-scale", help="Simulated seconds per second.")]
Staleness = Annotated[list[int] | None, typer.Option("--max-staleness", help="Measure ours at this bound; repeatable.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Actors = Annotated[int, typer.Option("--actors", min=1, help="Actor processes.")]


@app.command()
def rollout(
    scale: Scale = 1.0,
    time_scale: TimeScale = 8.0,
    max_staleness: Staleness = None,
    seed: Seed = 0,
    actors: Actors = 2,
    output: Output = None,
) -> None:
    """Lock-step RL, lock-step Meta-RL and ours on a simulated server that keeps a GPU's pace."""
    from rich.console import Console

    from deploy.bench.rollout import RolloutBenchOptions, run_rollout_bench

    bounds = tuple(max_staleness or (4,))
    options = RolloutBenchOptions(scale, time_scale, bounds, seed, actors, output)
    run_rollout_bench(options).print(Console())


@app.command()
def engine(output: Output = None) -> None:
    """The embedded engine beside left-padded `generate` and transformers' continuous batching."""
    from deploy.bench.engine import run_engine_bench
    from deploy.report import print_engine_bench

    report = run_engine_bench()
    print_engine_bench(report)
    if output is not None:
        output.write_bytes(report.to_json() + b"\n")
