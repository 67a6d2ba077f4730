"""`lamer train`: a whole run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides, Plain, Resume, RunName, run_async
from lamer.deploy.run.configuration import check_data, check_model_path, read_settings, with_tracking_address

if TYPE_CHECKING:
    from lamer.common.settings import Settings

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
    settings = read_settings(config, overrides or [], name)
    check_data(settings)
    check_model_path(settings)
    run_async(run_settings(settings, config, resume, plain))


def print_estimate(files: Sequence[Path], overrides: Sequence[str]) -> None:
    """Print what a run of the configuration would cost; nothing is downloaded, started or written.

    Raises:
        LamerError: the configuration can't work, or its environment or its model's sizes are not there.
    """
    from lamer.deploy.dry.report import print_dry_run
    from lamer.deploy.dry.run import dry_run, load_settings

    print_dry_run(dry_run(load_settings(files, overrides)))


async def run_settings(settings: Settings, files: Sequence[Path], is_resume: bool, is_plain: bool) -> int:
    """Run every process of a run here and print its results; the exit code.

    Raises:
        LamerError: the run folder or the run itself.
    """
    from lamer.deploy.run.folder import open_run
    from lamer.deploy.run.local import run_local
    from lamer.deploy.run.panel import make_view
    from lamer.deploy.run.report import print_lost_tracking, print_results

    run = open_run(with_tracking_address(settings), files, is_resume)
    view = make_view(is_plain)
    view.note(f"run {run.path} (every process writes to {run.logs})")
    try:
        code = await run_local(run, view)
    finally:
        view.close()
    if code == 0:
        print_results(run.summary)
    else:
        print_lost_tracking(run.summary)
    return code
