"""What several commands share: their options, and how a command runs, logs and is named."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

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
KeysFolder = Annotated[
    Path, typer.Option("--keys", metavar="DIR", help="Folder of CURVE keys (`lamer keys create --role`).")
]


def run_async(work: Coroutine[Any, Any, int]) -> None:
    """Run a command's coroutine and exit with the code it returns."""
    raise typer.Exit(asyncio.run(work))


def log_to(file: Path | None) -> None:
    """Log lines with a time, to `file` where a live panel has the terminal, to stderr when it is None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=file,
        level=logging.INFO,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        encoding="utf-8",
        errors="backslashreplace",
    )


def default_name(kind: str) -> str:
    """A name that tells this process from others of its kind: kind, host and process id."""
    import os
    import socket

    return f"{kind}-{socket.gethostname()}-{os.getpid()}"
