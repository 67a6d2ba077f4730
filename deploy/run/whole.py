"""A whole run on this machine: its folder, its processes, what a user sees of it, and its results at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamer.common.settings import Settings
from lamer.deploy.run.configuration import with_tracking_address
from lamer.deploy.run.folder import open_run
from lamer.deploy.run.local import run_local
from lamer.deploy.run.panel import make_view
from lamer.deploy.run.report import print_how_to_go_on, print_lost_tracking, print_results


async def run_settings(settings: Settings, files: Sequence[Path], is_resume: bool, is_plain: bool) -> int:
    """Run every process of a run here and print its results; the exit code.

    Raises:
        LamerError: the run folder or the run itself.
    """
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
        print_how_to_go_on(run, "train")
    return code
