"""`lamer inspect`: what a run left, down to every trained trial."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")]
Trial = Annotated[str | None, typer.Argument(metavar="TRIAL", help="A trial's id: show its prompts and responses.")]
Step = Annotated[int | None, typer.Option("--step", min=1, help="Only the trials of this update.")]


def inspect(run: Run, trial: Trial = None, step: Step = None) -> None:
    """Show a run's results and trials, or one trial in full."""
    from deploy.inspect import inspect_run
    from deploy.runs import find_run

    inspect_run(find_run(run), trial, step)
