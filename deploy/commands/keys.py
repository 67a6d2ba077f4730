"""`lamer keys`: the CURVE keys by which learner, actors and hosts know one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make and show the keys of a run.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The keys folder.")]
Server = Annotated[
    Path | None,
    typer.Option("--server", metavar="FILE", help="Only a client's pair, for the learner with this server.key."),
]
ClientKey = Annotated[Path, typer.Argument(metavar="FILE", help="The client.key of a machine with a pair of its own.")]
Name = Annotated[str, typer.Option("--name", help="What to call that machine, to find and delete its key later.")]


@app.command()
def create(folder: Folder, server: Server = None) -> None:
    """Make a new keys folder: a learner's, or with --server a client's."""
    from lamer.common.keys import create_client_keys, create_keys

    if server is None:
        create_keys(folder)
        print(f"keys in {folder}: copy server.key, client.key and client.key_secret to machines that join a run")
    else:
        create_client_keys(folder, server)
        print(
            f"keys in {folder}: copy client.key to the learner, and there: lamer keys allow DIR client.key --name NAME"
        )


@app.command("allow")
def let_in(folder: Folder, client_key: ClientKey, name: Name) -> None:
    """Let a machine with a pair of its own in; delete its file from DIR/allowed to shut it out."""
    from lamer.common.keys import allow

    allow(folder, client_key, name)
    print(f"{name} may connect: its key is in {folder / 'allowed' / f'{name}.key'}")


@app.command()
def show(folder: Folder) -> None:
    """Show the public keys of a folder and who is allowed in."""
    from lamer.common.keys import load_client_keys, load_server_keys

    client = load_client_keys(folder)
    print(f"server   {client.server_public}")
    print(f"client   {client.pair.public}")
    if (folder / "server.key_secret").is_file():
        for path in sorted(load_server_keys(folder).allowed.glob("*.key")):
            print(f"allowed  {path.read_text(encoding='ascii').strip()}  {path.name}")
