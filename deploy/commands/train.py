"""`lamer train`: a whole run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides, Plain, Resume, RunName, run_async
from lamer.deploy.run.configuration import check_data, check_model_path, read_settings

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Start nothing: check the configuration, print tokens, memory and estimated time."),
]


def train(
    config: ConfigFiles,
    overrides: Overrides = None,
    name: RunName = "",
    resume: Resume = False,
    plain: Plain = False,
    dry_run: DryRun = False,
) -> None:
    """Train: learner, inference servers and actors on this machine, supervised, with a live panel."""
    if dry_run:
        print_estimate(config, overrides or [])
        return
    from lamer.deploy.run.preflight import check_memory
    from lamer.deploy.run.whole import run_settings

    settings = read_settings(config, overrides or [], name)
    check_data(settings)
    check_model_path(settings)
    check_memory(settings)
    run_async(run_settings(settings, config, resume, plain))


def print_estimate(files: Sequence[Path], overrides: Sequence[str]) -> None:
    """Print what a run of the configuration would cost; nothing is downloaded, started or written.

    Raises:
        LamerError: the configuration can't work, or its environment or its model's sizes are not there.
    """
    from lamer.deploy.dry.report import print_dry_run
    from lamer.deploy.dry.run import dry_run, load_settings

    print_dry_run(dry_run(load_settings(files, overrides)))
