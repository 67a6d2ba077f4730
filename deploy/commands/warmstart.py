"""`lamer warmstart`: teach a model the output format, not the skill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides, log_to
from lamer.deploy.run.configuration import check_data, read_settings

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder to start from.")]
Output = Annotated[Path, typer.Argument(metavar="DIR", help="The model folder to write.")]


def warmstart(model: Model, output: Output, config: ConfigFiles, overrides: Overrides = None) -> None:
    """Fine-tune a model on scripted random play, so that it answers in the environment's format."""
    from lamer.deploy.models.warmstart import warm_start
    from lamer.deploy.run.report import print_metrics

    log_to(None)
    settings = read_settings(config, overrides or [])
    check_data(settings)
    print_metrics(f"model {output}", warm_start(settings, model, output))
