"""`lamer learner`: the gateway and its trainer, which actors and inference hosts join."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides, Plain, Resume, RunName, log_to
from lamer.deploy.run.configuration import check_data, check_model_path, read_settings, with_tracking_address

Bind = Annotated[str, typer.Option("--bind", metavar="URL", help="Address to listen on, for example tcp://0.0.0.0.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for a free one.")]
Keys = Annotated[
    Path | None, typer.Option("--keys", metavar="DIR", help="Folder of CURVE keys; the run's own if left out.")
]


def learner(
    config: ConfigFiles,
    overrides: Overrides = None,
    name: RunName = "",
    bind: Bind = "",
    port: Port = None,
    keys: Keys = None,
    resume: Resume = False,
    plain: Plain = False,
) -> None:
    """Start a run's learner; actors (`lamer actor`) and servers (`lamer serve`) join it from anywhere."""
    from lamer.deploy.run.folder import open_run
    from lamer.deploy.run.learning import run_learner
    from lamer.deploy.run.panel import make_view
    from lamer.deploy.run.preflight import check_memory
    from lamer.deploy.run.report import print_how_to_go_on, print_lost_tracking, print_results

    settings = read_settings(config, overrides or [], name)
    check_data(settings)
    check_model_path(settings)
    check_memory(settings)
    settings = with_tracking_address(settings)
    gateway = settings.gateway
    gateway = replace(
        gateway,
        bind=bind or gateway.bind,
        port=gateway.port if port is None else port,
        keys=gateway.keys if keys is None else str(keys),
    )
    run = open_run(replace(settings, gateway=gateway), config, resume)
    view = make_view(plain)
    log_to(None if view.is_plain else run.logs / "learner.log")
    view.note(f"run {run.path}")
    try:
        code = run_learner(run, view)
    finally:
        view.close()
    if code == 0:
        print_results(run.summary)
    else:
        print_lost_tracking(run.summary)
        print_how_to_go_on(run, "learner")
    raise typer.Exit(code)
