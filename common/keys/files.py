"""Keys folders: made, given to a machine, read. What lies in them is told in `common.keys`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.common.keys.allow_list import AllowList, Client, parse_key
from lamer.common.messages import Role
from lamer.common.transport import KeyPair, make_key_pair, public_of

ROLES = (Role.ACTOR, Role.HOST, Role.OBSERVER)
"""The roles that a key in a file can have."""

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_RESERVED = ("allowed", "trainer")


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What a gateway needs: its own pair, the folder of the keys that it accepts, and the pair of its own trainer."""

    pair: KeyPair
    allowed: Path
    trainer: KeyPair

    def allow_list(self) -> AllowList:
        """Who may connect, the trainer among them.

        Raises:
            BadInput: a file holds a key without a role.
        """
        return AllowList(self.allowed, (Client("trainer", Role.TRAINER, self.trainer.public),))

    @property
    def of_trainer(self) -> ClientKeys:
        """What the trainer connects with."""
        return ClientKeys(self.trainer, self.pair.public, Role.TRAINER)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs: its own pair and the learner's public key. role: that it was made for, None if unknown."""

    pair: KeyPair
    server_public: str
    role: Role | None = None


def create_keys(folder: Path) -> None:
    """Make a learner's keys folder, with keys for the processes of its own machine, one of each role.

    Secret files are readable by their owner only.

    Raises:
        BadInput: the folder already holds keys.
    """
    _refuse_existing(folder)
    (folder / "allowed").mkdir(parents=True, exist_ok=True)
    pair = make_key_pair()
    _write(folder / "server.key", pair.public, 0o644)
    _write(folder / "server.key_secret", pair.secret, 0o600)
    for role in ROLES:
        create_client(folder, role.value, role)


def ensure_keys(folder: Path) -> None:
    """Make a learner's keys folder if there is none, and what it lacks for the processes of its own machine.

    Raises:
        Missing, BadInput: as `load_server_keys`.
    """
    if not folder.exists():
        create_keys(folder)
    load_server_keys(folder)
    for role in ROLES:
        if not (folder / role.value).exists() and not (folder / "allowed" / f"{role.value}.key").exists():
            create_client(folder, role.value, role)


def create_client(folder: Path, name: str, role: Role) -> Path:
    """Make a key of its own for a machine or a person, and let it in as `role`; a learner's folder is made if need be.

    Returns:
        The folder to be copied there: `folder`/`name`.

    Raises:
        BadInput: `name` is no file name, or taken.
    """
    _check_name(name)
    if not (folder / "server.key_secret").exists():
        create_keys(folder)
    if (folder / "allowed" / f"{name}.key").exists() or (folder / name).exists():
        raise BadInput(f"{folder} has a key called {name} already: choose another name, or delete {folder / name}")
    pair = _read_pair(folder, "server")
    client = make_key_pair()
    _write_client(folder / name, ClientKeys(client, pair.public, role))
    _write(folder / "allowed" / f"{name}.key", f"{role.value} {client.public}", 0o644)
    return folder / name


def create_own_pair(folder: Path, server_key: Path, role: Role) -> None:
    """Make a machine's keys on that machine, for the learner whose public key is in `server_key`: its secret never
    travels.

    Raises:
        BadInput: the folder already holds keys, or `server_key` holds none. Missing: it is not there.
    """
    server_public = _read(server_key)
    _refuse_existing(folder)
    if server_key.resolve() == (folder / "server.key").resolve():
        server_key.unlink()
    _write_client(folder, ClientKeys(make_key_pair(), server_public, role))


def write_trainer_keys(folder: Path, keys: ServerKeys) -> None:
    """Write what the trainer connects with, in place of what an earlier learner left there."""
    for name in ("server.key", "client.key", "client.key_secret"):
        (folder / name).unlink(missing_ok=True)
    _write_client(folder, keys.of_trainer)


def allow(folder: Path, client_key: Path, name: str, role: Role) -> None:
    """Let the client whose public key is in `client_key` in as `role`, under `name`, from its next try on.

    Raises:
        BadInput: it holds no key, or `name` is no file name. Missing: it, or a learner's keys folder, is not there.
    """
    _check_name(name)
    _read_pair(folder, "server")
    public = _read(client_key)
    (folder / "allowed").mkdir(exist_ok=True)
    (folder / "allowed" / f"{name}.key").write_text(f"{role.value} {public}\n", encoding="ascii")


def load_server_keys(folder: Path) -> ServerKeys:
    """The gateway's keys, with a new pair for its trainer.

    Raises:
        Missing: a file is not there. BadInput: a file holds no key, another pair's, or a key without a role.
    """
    pair = _read_pair(folder, "server")
    allowed = folder / "allowed"
    if not allowed.is_dir():
        raise Missing(f"{allowed} is not there: it holds the public keys of the clients that may connect")
    keys = ServerKeys(pair, allowed, make_key_pair())
    keys.allow_list()
    return keys


def load_client_keys(folder: Path, role: Role) -> ClientKeys:
    """The keys of a process that joins as `role`. A learner's folder stands for what it holds for its own machine.

    Raises:
        Missing: a file is not there. BadInput: a file holds no key, another pair's, or the key is of another role.
    """
    if (folder / "server.key_secret").is_file() and not (folder / "client.key_secret").is_file():
        folder = folder / role.value
    keys = read_client_keys(folder)
    if keys.role not in (None, role):
        raise BadInput(f"{folder / 'client.key'} is {described(keys.role)}'s key: {_make_one(role)}")
    return keys


def read_client_keys(folder: Path) -> ClientKeys:
    """A client's keys, whatever their role.

    Raises:
        Missing: a file is not there. BadInput: a file holds no key, or another pair's.
    """
    pair = _read_pair(folder, "client")
    role, _ = parse_key((folder / "client.key").read_bytes())
    return ClientKeys(pair, _read(folder / "server.key"), role)


def described(role: Role | None) -> str:
    """A role as a sentence says it: "an actor"."""
    return "nobody" if role is None else f"{'an' if role.value[0] in 'aeiou' else 'a'} {role.value}"


def _make_one(role: Role) -> str:
    return f"make {described(role)}'s on the learner (lamer keys create --role {role.value} NAME) and copy that folder"


def _check_name(name: str) -> None:
    if not _NAME.match(name) or name in _RESERVED:
        raise BadInput(
            f"{name!r} can't be a key's name: letters, digits, '.', '_' and '-', and not {', '.join(_RESERVED)}"
        )


def _refuse_existing(folder: Path) -> None:
    for name in ("server.key_secret", "client.key_secret"):
        if (folder / name).exists():
            raise BadInput(f"{folder / name} exists already: choose another folder, or delete the keys to replace them")


def _write_client(folder: Path, keys: ClientKeys) -> None:
    assert keys.role is not None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "server.key", keys.server_public, 0o644)
    _write(folder / "client.key", f"{keys.role.value} {keys.pair.public}", 0o644)
    _write(folder / "client.key_secret", keys.pair.secret, 0o600)


def _write(path: Path, text: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
        file.write(text + "\n")


def _read_pair(folder: Path, name: str) -> KeyPair:
    pair = KeyPair(_read(folder / f"{name}.key"), _read(folder / f"{name}.key_secret"))
    if public_of(pair.secret) != pair.public:
        raise BadInput(f"{name}.key_secret in {folder} does not belong to {name}.key: copy both from one keys folder")
    return pair


def _read(path: Path) -> str:
    """The key in a file, with or without a role before it."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Missing(
            f"{path} is not there: `lamer keys create` makes a keys folder, or copy it from the learner"
        ) from error
    _, key = parse_key(data)
    if not key:
        raise BadInput(f"{path} holds no CURVE key (40 characters of Z85), but {len(data.strip())} characters")
    return key
