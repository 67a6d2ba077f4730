"""`lamer inspect`: what a run left, down to every trained trial."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")]
Trial = Annotated[str | None, typer.Argument(metavar="TRIAL", help="A trial's id: show its prompts and responses.")]
Step = Annotated[int | None, typer.Option("--step", min=1, help="Only the trials of this update.")]
Solved = Annotated[
    bool | None, typer.Option("--solved/--unsolved", help="Only trials that ended so.", show_default=False)
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Most trials listed.")]


def inspect(run: Run, trial: Trial = None, step: Step = None, solved: Solved = None, limit: Limit = 20) -> None:
    """List a run's trials, or show one in full."""
    from lamer.deploy.run.folder import find_run
    from lamer.deploy.run.inspect import inspect_run

    inspect_run(find_run(run), trial, step, is_solved=solved, limit=limit)
