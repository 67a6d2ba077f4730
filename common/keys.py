"""CURVE keys as files: who may talk to a learner.

A keys folder holds one Z85 key a file:

    server.key, server.key_secret    the learner's pair; every client needs server.key
    client.key, client.key_secret    the pair of the clients of this folder
    allowed/NAME.key                 public keys that the learner accepts, read at every handshake

A machine that joins a run needs server.key, client.key and client.key_secret. For a machine with its own client pair
(`create_client_keys`), put that pair's client.key into the learner's allowed/ under any name (`allow`); deleting it
there shuts the machine out at its next connection.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.common.transport import KeyPair, make_key_pair, public_of

_Z85 = re.compile(r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What the gateway needs: its own pair, and the folder of the public keys that it accepts."""

    pair: KeyPair
    allowed: Path

    def is_allowed(self, public: str) -> bool:
        """Whether a client with this public key (Z85) may connect at this moment."""
        return any(_peek(path) == public for path in sorted(self.allowed.glob("*.key")))


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs: its own pair and the learner's public key."""

    pair: KeyPair
    server_public: str


def create_keys(folder: Path) -> None:
    """Make a new keys folder, whose own client pair is allowed. Secret files are readable by their owner only.

    Raises:
        BadInput: the folder already holds keys.
    """
    _refuse_existing(folder)
    (folder / "allowed").mkdir(parents=True, exist_ok=True)
    for name in ("server", "client"):
        _write_pair(folder, name)
    _write(folder / "allowed" / "client.key", _read(folder / "client.key"), 0o644)


def create_client_keys(folder: Path, server_key: Path) -> None:
    """Make the keys folder of a machine with a pair of its own, for the learner whose public key is in `server_key`.

    Raises:
        BadInput: the folder already holds keys, or `server_key` holds none. Missing: it is not there.
    """
    server_public = _read(server_key)
    _refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if server_key.resolve() != (folder / "server.key").resolve():
        _write(folder / "server.key", server_public, 0o644)
    _write_pair(folder, "client")


def allow(folder: Path, client_key: Path, name: str) -> None:
    """Let the client whose public key is in `client_key` in, under `name`, from its next try on.

    Raises:
        BadInput: it holds no key, or `name` is no file name. Missing: it, or a learner's keys folder, is not there.
    """
    allowed = load_server_keys(folder).allowed
    if not _NAME.match(name):
        raise BadInput(f"{name!r} can't be a client's name: letters, digits, '.', '_' and '-'")
    (allowed / f"{name}.key").write_text(_read(client_key) + "\n", encoding="ascii")


def load_server_keys(folder: Path) -> ServerKeys:
    """The gateway's keys.

    Raises:
        Missing: a file is not there. BadInput: a file holds no key, or another pair's.
    """
    pair = _read_pair(folder, "server")
    allowed = folder / "allowed"
    if not allowed.is_dir():
        raise Missing(f"{allowed} is not there: it holds the public keys of the clients that may connect")
    return ServerKeys(pair, allowed)


def load_client_keys(folder: Path) -> ClientKeys:
    """A client's keys.

    Raises:
        Missing: a file is not there. BadInput: a file holds no key, or another pair's.
    """
    return ClientKeys(_read_pair(folder, "client"), _read(folder / "server.key"))


def _peek(path: Path) -> str:
    """What a file of allowed/ holds, "" if it has just been deleted: the folder is edited while a run goes on."""
    try:
        return path.read_bytes().decode("ascii", errors="replace").strip()
    except OSError:
        return ""


def _refuse_existing(folder: Path) -> None:
    for name in ("server.key_secret", "client.key_secret"):
        if (folder / name).exists():
            raise BadInput(f"{folder / name} exists already: choose another folder, or delete the keys to replace them")


def _write_pair(folder: Path, name: str) -> None:
    pair = make_key_pair()
    _write(folder / f"{name}.key", pair.public, 0o644)
    _write(folder / f"{name}.key_secret", pair.secret, 0o600)


def _write(path: Path, key: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
        file.write(key + "\n")


def _read_pair(folder: Path, name: str) -> KeyPair:
    pair = KeyPair(_read(folder / f"{name}.key"), _read(folder / f"{name}.key_secret"))
    if public_of(pair.secret) != pair.public:
        raise BadInput(f"{name}.key_secret in {folder} does not belong to {name}.key: copy both from one keys folder")
    return pair


def _read(path: Path) -> str:
    try:
        key = path.read_bytes().decode("ascii", errors="replace").strip()
    except FileNotFoundError as error:
        raise Missing(
            f"{path} is not there: `lamer keys create` makes a keys folder, or copy it from the learner"
        ) from error
    if not _Z85.match(key):
        raise BadInput(f"{path} holds no CURVE key (40 characters of Z85), but {len(key)} characters")
    return key
