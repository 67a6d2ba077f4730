"""`lamer bench`: throughput of rollout, engine, trainer and environments, and what weight updates cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides
from lamer.deploy.run.configuration import read_settings

app = typer.Typer(help="Measure throughput.", no_args_is_help=True)
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the report as JSON.")]
Scale = Annotated[float, typer.Option("--scale", help="Size of batch and server, at most 1.")]
TimeScale = Annotated[float, typer.Option("--time-scale", help="Simulated seconds per second.")]
Staleness = Annotated[list[int] | None, typer.Option("--max-staleness", help="Measure ours at this bound; repeatable.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Actors = Annotated[int, typer.Option("--actors", min=1, help="Actor processes.")]
Engine = Annotated[str, typer.Option("--engine", help="embedded or sglang.")]
Modes = Annotated[str, typer.Option("--modes", help="Ways of updating, with commas between.")]
Model = Annotated[Path | None, typer.Option("--model", metavar="DIR", help="A model folder, instead of --size.")]
Sizes = Annotated[list[str] | None, typer.Option("--size", help="Random model: pocket, 150m or 460m; repeatable.")]
Updates = Annotated[int, typer.Option("--updates", min=1, help="Weight updates in each round.")]
SteadyUpdates = Annotated[int, typer.Option("--updates", min=1, help="Updates measured at least, in a steady state.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each mode.")]
Streams = Annotated[int, typer.Option("--streams", min=1, help="Requests in flight.")]
RoundSeconds = Annotated[float, typer.Option("--round-seconds", help="Length of a round without updates, about.")]
Games = Annotated[int, typer.Option("--games", min=1, help="Games at once.")]
Minutes = Annotated[float, typer.Option("--minutes", help="How long.")]
Alone = Annotated[bool, typer.Option("--alone", help="Measure ours alone.")]
RunFolder = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Train on the batches of this run.")]
NamedModel = Annotated[str, typer.Option("--model", help="A model folder, or an architecture of random weights.")]
Groups = Annotated[int, typer.Option("--groups", min=1, help="Groups of made-up trials in an update.")]
GroupSize = Annotated[int, typer.Option("--group-size", min=1, help="Trials of a group.")]
Lengths = Annotated[float, typer.Option("--lengths", help="Of all lengths of made-up trials; 1 for the paper's.")]
Response = Annotated[int, typer.Option("--response", min=1, help="Median tokens of a response, at --lengths 1.")]
Sharing = Annotated[str, typer.Option("--sharing", help="paper: prompts begin alike. none: every prompt is new.")]
MeasuredRounds = Annotated[int, typer.Option("--rounds", min=1, help="Measured, each with trials of its own.")]
CardOutput = Annotated[Path, typer.Option("--output", metavar="FILE", help="Where the report is written.")]
Small = Annotated[bool, typer.Option("--small", help="Rehearse on a CPU: tiny models, the embedded engine.")]
SglangPython = Annotated[str, typer.Option("--sglang-python", metavar="FILE", help="The interpreter that has SGLang.")]


@app.command()
def rollout(
    scale: Scale = 1.0,
    time_scale: TimeScale = 8.0,
    max_staleness: Staleness = None,
    seed: Seed = 0,
    actors: Actors = 2,
    updates: SteadyUpdates = 20,
    output: Output = None,
) -> None:
    """Lock-step RL, lock-step Meta-RL and ours on a simulated server that keeps a GPU's pace."""
    from rich.console import Console

    from lamer.deploy.bench.rollout import RolloutBenchOptions, run_rollout_bench

    bounds = tuple(max_staleness or (4,))
    options = RolloutBenchOptions(scale, time_scale, bounds, seed, actors, output, updates)
    console = Console()
    run_rollout_bench(options, console.print).print(console)


@app.command()
def engine(output: Output = None) -> None:
    """The embedded engine beside left-padded `generate` and transformers' continuous batching."""
    from lamer.deploy.bench.engine import run_engine_bench
    from lamer.deploy.bench.engine_report import print_engine_bench

    report = run_engine_bench()
    print_engine_bench(report)
    if output is not None:
        output.write_bytes(report.to_json() + b"\n")


@app.command()
def weights(
    engine: Engine = "embedded",
    modes: Modes = "in_place,retract,abort,wait",
    size: Sizes = None,
    model: Model = None,
    updates: Updates = 3,
    rounds: Rounds = 3,
    streams: Streams = 4,
    round_seconds: RoundSeconds = 12.0,
    seed: Seed = 0,
    sglang_python: SglangPython = "",
    output: Output = None,
) -> None:
    """Seconds that a weight update costs a saturated server, for each way of pausing it, beside a bare load."""
    import asyncio

    from rich.console import Console

    from lamer.deploy.bench.weights import WeightsBenchOptions, run_weights_bench

    console = Console()
    options = WeightsBenchOptions(
        engine=engine,
        sizes=tuple(size or ("pocket", "460m")),
        model=model,
        modes=tuple(modes.split(",")),
        updates=updates,
        rounds=rounds,
        streams=streams,
        round_seconds=round_seconds,
        seed=seed,
        python=sglang_python,
        output=output,
    )
    asyncio.run(run_weights_bench(options, console.print)).print(console)


@app.command()
def games(
    config: ConfigFiles,
    overrides: Overrides = None,
    games: Games = 64,
    minutes: Minutes = 10.0,
    output: Output = None,
) -> None:
    """Many games of an environment at once, at random: steps, memory over time, lag of the event loop."""
    import asyncio

    from rich.console import Console

    from lamer.deploy.bench.games import GamesBenchOptions, run_games_bench

    console = Console(highlight=False)
    options = GamesBenchOptions(games, 60.0 * minutes, output)
    report = asyncio.run(run_games_bench(read_settings(config, overrides or ()), options, console.print))
    for line in report.lines():
        console.print(line)


@app.command()
def trainer(
    overrides: Overrides = None,
    model: NamedModel = "small",
    run: RunFolder = None,
    groups: Groups = 2,
    group_size: GroupSize = 8,
    lengths: Lengths = 1.0,
    response: Response = 320,
    sharing: Sharing = "paper",
    rounds: MeasuredRounds = 3,
    alone: Alone = False,
    seed: Seed = 0,
    output: Output = None,
) -> None:
    """The trainer beside padded transformers, transformers' own packing and bare layers, with equal gradients."""
    from rich.console import Console

    from lamer.common.config import load
    from lamer.deploy.bench.trainer.run import OTHERS, TrainerBenchOptions, run_trainer_bench
    from lamer.deploy.bench.trainer.trials import TrialShape

    files = [] if run is None else [run / "config.yaml"]
    options = TrainerBenchOptions(
        model=model,
        run=run,
        shape=TrialShape(groups=groups, group_size=group_size, sharing=sharing, scale=lengths, response=response),
        settings=load(files, overrides or []),
        rounds=rounds,
        others=() if alone else OTHERS,
        seed=seed,
        output=output,
    )
    console = Console()
    run_trainer_bench(options, console.print).print(console)


@app.command()
def card(
    output: CardOutput = Path("card.json"),
    small: Small = False,
    sglang_python: SglangPython = "",
) -> None:
    """All that only a GPU can show, in four minutes at most: trainer, SGLang's contract, doors with SGLang."""
    from rich.console import Console

    from lamer.deploy.bench.card import CardOptions, run_card_bench

    console = Console(highlight=False)
    report = run_card_bench(CardOptions(output, small, sglang_python), console.print)
    console.print(f"{output}: {len(report.steps)} steps in {report.seconds:.0f} s")
    if any(step.status != "ok" for step in report.steps):
        raise typer.Exit(1)
