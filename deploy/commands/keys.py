"""`lamer keys`: the CURVE keys by which learner, actors and hosts know one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make and show the keys of a run.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The keys folder.")]


@app.command()
def create(folder: Folder) -> None:
    """Make a new keys folder."""
    from common.keys import create_keys

    create_keys(folder)
    print(f"keys in {folder}: copy server.key, client.key and client.key_secret to machines that join a run")


@app.command()
def show(folder: Folder) -> None:
    """Show the public keys of a folder and who is allowed in."""
    from common.keys import load_client_keys, load_server_keys

    client = load_client_keys(folder)
    print(f"server   {client.server_public}")
    print(f"client   {client.pair.public}")
    if (folder / "server.key_secret").is_file():
        for path in sorted(load_server_keys(folder).allowed.glob("*.key")):
            print(f"allowed  {path.read_text(encoding='ascii').strip()}  {path.name}")
