"""`lamer keys`: the CURVE keys by which learner, actors, hosts and observers know one another, each with a role."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class KeyRole(enum.StrEnum):
    """The roles that a key can be made for."""

    ACTOR = "actor"
    HOST = "host"
    OBSERVER = "observer"


app = typer.Typer(help="Make and show the keys of a run.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The learner's keys folder.")]
Made = Annotated[
    str, typer.Argument(metavar="NAME", help="With --role: whom the key is for. Without: the learner's new folder.")
]
ForRole = Annotated[
    KeyRole | None, typer.Option("--role", help="Make a key for another machine or person, that may be this.")
]
Role = Annotated[KeyRole, typer.Option("--role", help="What a process with this key may be.")]
Keys = Annotated[
    Path, typer.Option("--keys", metavar="DIR", help="The learner's keys folder; made if it is not there.")
]
Server = Annotated[
    Path | None,
    typer.Option(
        "--server", metavar="FILE", help="On the other machine: its pair, for the learner with this server.key."
    ),
]
ClientKey = Annotated[Path, typer.Argument(metavar="FILE", help="The client.key of a machine with a pair of its own.")]
Name = Annotated[str, typer.Option("--name", help="What to call that machine, to find and delete its key later.")]


@app.command()
def create(name: Made, role: ForRole = None, keys: Keys = Path("keys"), server: Server = None) -> None:
    """Make a learner's keys folder, or with --role the folder of an actor's, a host's or an observer's machine."""
    from lamer.common.errors import BadInput
    from lamer.common.keys import create_client, create_keys, create_own_pair
    from lamer.common.messages import Role as PeerRole

    if role is None and server is not None:
        raise BadInput("--server needs a --role: actor, host or observer")
    if role is None:
        create_keys(Path(name))
        print(f"keys in {name}; for each other machine: lamer keys create --keys {name} --role actor NAME (or host)")
    elif server is not None:
        create_own_pair(Path(name), server, PeerRole(role.value))
        print(
            f"keys in {name}: copy client.key to the learner, and there: lamer keys allow DIR client.key "
            f"--role {role.value} --name NAME"
        )
    else:
        folder = create_client(keys, name, PeerRole(role.value))
        print(f"{name} may connect as {role.value}: copy {folder} to that machine")


@app.command("allow")
def let_in(folder: Folder, client_key: ClientKey, name: Name, role: Role) -> None:
    """Let a machine with a pair of its own in; delete its file from DIR/allowed to shut it out."""
    from lamer.common.keys import allow
    from lamer.common.messages import Role as PeerRole

    allow(folder, client_key, name, PeerRole(role.value))
    print(f"{name} may connect as {role.value}: its key is in {folder / 'allowed' / f'{name}.key'}")


@app.command()
def show(folder: Folder) -> None:
    """Show the public keys of a folder, their roles, and who is allowed in."""
    from lamer.common.keys import load_server_keys, read_client_keys

    if not (folder / "server.key_secret").is_file():
        client = read_client_keys(folder)
        print(f"server    {client.server_public}")
        print(f"{client.role.value if client.role else 'no role':9} {client.pair.public}")
        return
    keys = load_server_keys(folder)
    print(f"server    {keys.pair.public}")
    for known in keys.allow_list().files():
        print(f"{known.role.value:9} {known.public}  {known.name}")
