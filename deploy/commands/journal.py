"""`lamer journal`: look after the trials that a run keeps."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Look after the trials that a run keeps.", no_args_is_help=True)
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or name.")]
Keep = Annotated[
    int, typer.Option("--keep", metavar="N", min=0, help="Updates, the last ones, that keep their trials.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]


@app.callback()
def group() -> None:
    """Look after the trials that a run keeps."""


@app.command()
def prune(run: Run, keep: Keep, dry_run: DryRun = False) -> None:
    """Delete prompts and responses of old trials, for good; who played what and how it went is kept."""
    from lamer.deploy.run.folder import find_run
    from lamer.deploy.run.journal import prune_run

    prune_run(find_run(run), keep, is_dry=dry_run)


@app.command()
def verify(run: Run) -> None:
    """Check ids, states, checksums and batches of all trials, also while the run goes on; exit 1 if one is wrong."""
    from lamer.deploy.run.folder import find_run
    from lamer.deploy.run.journal import verify_run

    verify_run(find_run(run))


@app.command()
def repair(run: Run) -> None:
    """Set aside what is damaged, keep the rest, and say what was done; a journal that is gone is begun anew."""
    from lamer.deploy.run.folder import find_run
    from lamer.deploy.run.journal import repair_run

    repair_run(find_run(run))
