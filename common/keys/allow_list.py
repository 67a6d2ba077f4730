"""Which public keys a learner accepts, as what, and under which names.

The files of allowed/ are read when a list is made, when a key is not known, and whenever `refresh` is called. While
they can't be read, the list stays what it was: a full table of open files must neither end a run nor shut peers out.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.common.messages import Role

log = logging.getLogger("lamer.keys")

_Z85 = re.compile(r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$")


@dataclass(frozen=True, slots=True)
class Client:
    """Whose key this is. public: the key as Z85 text. name: of its file in allowed/."""

    name: str
    role: Role
    public: str


class AllowList:
    """Belongs to one event loop; `refresh` may run beside it. own: clients that are let in whatever the files say."""

    def __init__(self, folder: Path, own: tuple[Client, ...] = ()) -> None:
        """Read `folder`, whose files are called NAME.key.

        Raises:
            BadInput: a file holds a key without a role, or gives one the trainer's.
        """
        self._folder = folder
        self._own = {client.public: client for client in own}
        self._clients: dict[str, Client] = {}
        self._warned: set[str] = set()
        for path in sorted(folder.glob("*.key")):
            _check(path)
        self.refresh()

    def find(self, public: str) -> Client | None:
        """Whose key this is, by what was read last; None if it may not connect."""
        return self._own.get(public) or self._clients.get(public)

    def files(self) -> tuple[Client, ...]:
        """The clients of the files that were read last, by name."""
        return tuple(sorted(self._clients.values(), key=lambda client: client.name))

    def admits(self, public: str) -> bool:
        """Whether a client with this key may connect at this moment: an unknown one may have been added just now."""
        if self.find(public) is None:
            self.refresh()
        return self.find(public) is not None

    def refresh(self) -> None:
        """Read the files again."""
        try:
            self._clients = {client.public: client for client in self._read()}
        except OSError as error:
            self._warn(f"the keys in {self._folder} can't be read, so they stay as they were: {error}")

    def _read(self) -> Iterator[Client]:
        """One client a key: of two files with the same one the first by name."""
        names = (name for name in os.listdir(self._folder) if name.endswith(".key"))
        for name in sorted(names, reverse=True):
            try:
                role, public = parse_key((self._folder / name).read_bytes())
            except FileNotFoundError:
                continue  # deleted just now
            if not public:
                continue
            if role in (None, Role.TRAINER):
                self._warn(f"{self._folder / name} is passed over: {_advice(self._folder / name)}")
                continue
            yield Client(name.removesuffix(".key"), role, public)

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            log.warning("%s", text)


def parse_key(data: bytes) -> tuple[Role | None, str]:
    """The role and the key that a file holds: "ROLE KEY". (None, "") where there is no key; no role but a known one."""
    words = data.decode("ascii", errors="replace").split()
    if not words or len(words) > 2 or not _Z85.match(words[-1]):
        return None, ""
    return next((role for role in Role if len(words) == 2 and role.value == words[0]), None), words[-1]


def _check(path: Path) -> None:
    try:
        role, public = parse_key(path.read_bytes())
    except OSError:
        return  # deleted just now, or `refresh` says why
    if public and role in (None, Role.TRAINER):
        raise BadInput(f"{path}: {_advice(path)}")


def _advice(path: Path) -> str:
    keys, name = path.parent.parent, path.stem
    return (
        f"this key has no role. Give it one: lamer keys allow {keys} {path} --name {name} --role actor (or host, or "
        f"observer); or delete it, and make a key for each machine: lamer keys create --keys {keys} --role actor NAME"
    )
