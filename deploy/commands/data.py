"""`lamer data`: bring the data that environments need and that does not come with lamer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Bring data that does not come with lamer: alfworld, webshop.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="alfworld or webshop.")]
OptionalName = Annotated[str | None, typer.Argument(metavar="NAME", help="alfworld or webshop; both if left out.")]
Places = Annotated[
    list[Path],
    typer.Argument(metavar="DIR_OR_ARCHIVE...", help="Folders, .zip or .tar.xz archives, .json or .json.gz files."),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder", metavar="DIR", help="The dataset's folder; $LAMER_DATA/NAME, or one in ~/.cache/lamer/data."
    ),
]
Mirror = Annotated[str, typer.Option("--mirror", metavar="URL", help="Where the official files lie by their names.")]

Compile = Annotated[bool, typer.Option("--compile", help="Compile alfworld's games now: about two seconds each.")]


@app.callback()
def group() -> None:
    """Bring data that does not come with lamer: alfworld, webshop."""


@app.command()
def fetch(name: Name, folder: Folder = None, mirror: Mirror = "", compiles: Compile = False) -> None:
    """Download a dataset from its official places; a call after an interruption goes on where it stopped."""
    from lamer.deploy.doctor.datasets import fetch_dataset

    fetch_dataset(name, folder, mirror, compiles=compiles)


@app.command()
def check(name: OptionalName = None, folder: Folder = None) -> None:
    """Say of each part whether it is there, how large, which SHA-256; exit 3 if something needed is missing."""
    from lamer.deploy.doctor.datasets import check_datasets

    check_datasets(name, folder)


@app.command("import")
def import_(name: Name, places: Places, folder: Folder = None, compiles: Compile = False) -> None:
    """Take a dataset's files from folders or archives at hand."""
    from lamer.deploy.doctor.datasets import import_dataset

    import_dataset(name, folder, places, compiles=compiles)
