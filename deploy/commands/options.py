"""Options that several commands share, and how a command reads its configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lamer.common.settings import Settings

ConfigFiles = Annotated[
    list[Path],
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file, or the name of one that comes with lamer."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that win over the files.", show_default=False),
]
RunName = Annotated[str, typer.Option("--name", help="The run's name; the file's name and a number when left out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run from its last checkpoint.")]
Plain = Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live panel.")]
Connect = Annotated[str, typer.Option("--connect", metavar="URL", help="The learner, tcp://host:port.")]
KeysFolder = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of CURVE keys (`lamer keys create`).")]


def read_settings(files: Sequence[Path], overrides: Sequence[str], name: str = "") -> Settings:
    """The configuration of `files` and `overrides`, the options of its environment checked and filled in.

    Raises:
        BadInput: it can't be used. Missing: a file is not there.
    """
    import json
    from dataclasses import replace

    from lamer.common import config
    from lamer.deploy.run.preflight import evaluation_env_config
    from lamer.envs import registry

    settings = config.load(files, overrides)
    options = json.loads(registry.canonical_config(settings.env.name, settings.env.options))
    evaluation_env_config(settings)
    run = replace(settings.run, name=name) if name else settings.run
    return replace(settings, run=run, env=replace(settings.env, options=options))


def check_data(settings: Settings) -> None:
    """Refuse a configuration whose environment lacks its data here, before anything is created or started.

    Raises:
        Missing: it does, for training or for evaluation; the message says which command brings it.
    """
    from lamer.deploy.run.preflight import evaluation_env_config
    from lamer.envs import registry

    env = settings.env
    registry.check_data(env.name, registry.canonical_config(env.name, env.options))
    if settings.evaluation.tasks:
        registry.check_data(env.name, evaluation_env_config(settings))


def check_model_path(settings: Settings) -> None:
    """Refuse a configured model folder that can't be used, before anything is created or started.

    Raises:
        Missing: it is not there, or lacks a file.
    """
    from lamer.deploy.models.warmstart import check_model

    if settings.model.path:
        check_model(Path(settings.model.path))


def run_async(work: Coroutine[Any, Any, int]) -> None:
    """Run a command's coroutine and exit with the code it returns."""
    raise typer.Exit(asyncio.run(work))


def log_to(file: Path | None) -> None:
    """Log lines with a time, to `file` where a live panel has the terminal, to stderr when it is None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=file, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )


def default_name(kind: str) -> str:
    """A name that tells this process from others of its kind: kind, host and process id."""
    import os
    import socket

    return f"{kind}-{socket.gethostname()}-{os.getpid()}"
