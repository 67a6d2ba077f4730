"""`lamer model`: models for machines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides
from lamer.deploy.run.configuration import check_data, read_settings

app = typer.Typer(help="Create models.", no_args_is_help=True)
Output = Annotated[Path, typer.Argument(metavar="DIR", help="The model folder to write.")]


@app.callback()
def group() -> None:
    """Create models."""


@app.command()
def create(output: Output, config: ConfigFiles, overrides: Overrides = None) -> None:
    """Create the configuration's pocket model, its tokenizer trained on the environment's own texts."""
    from lamer.deploy.models.warmstart import create_model
    from lamer.deploy.run.report import print_metrics

    settings = read_settings(config, overrides or [])
    check_data(settings)
    print_metrics(f"model {output}", create_model(settings, output))
