"""`lamer config`: what a configuration resolves to."""

from __future__ import annotations

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides
from lamer.deploy.run.configuration import read_settings

app = typer.Typer(help="Show configurations.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Show configurations."""


@app.command()
def show(config: ConfigFiles, overrides: Overrides = None) -> None:
    """Print every setting of a configuration, checked, with defaults filled in, as YAML."""
    from lamer.common.config import config_hash, to_shown_yaml

    settings = read_settings(config, overrides or [])
    print(f"# hash {config_hash(settings)}")
    print(to_shown_yaml(settings), end="")
