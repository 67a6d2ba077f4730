"""What arrived in a dataset's folder: the hash and the size of each part, in `hashes.json` beside the parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from lamer.common.errors import BadInput

LEDGER_FILE = "hashes.json"
_CHUNK = 1 << 20


class Entry(msgspec.Struct, frozen=True):
    """A part as it arrived: SHA-256 of its content in hex, and bytes."""

    sha256: str
    size: int


class Ledger(msgspec.Struct, frozen=True):
    """Entries by the name of their part."""

    entries: dict[str, Entry] = {}

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """The ledger of a folder, empty where there is none.

        Raises:
            BadInput: it can't be read.
        """
        path = folder / LEDGER_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} can't be read ({error}): remove it, and check the data by hand") from error

    def write(self, folder: Path) -> None:
        """Replace the ledger of a folder."""
        temporary = folder / f".{LEDGER_FILE}"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        os.replace(temporary, folder / LEDGER_FILE)

    def with_entries(self, entries: Mapping[str, Entry]) -> Ledger:
        """This ledger with other or more entries."""
        return Ledger({**self.entries, **entries})


def hash_stream(stream: BinaryIO) -> str:
    """SHA-256 of what is left in a stream, in hex."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hash_stream(stream)


def hash_tree(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the lines "NAME SHA256" of files of a folder, by name: equal for equal names and contents."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name} {hash_file(folder / name)}\n".encode())
    return digest.hexdigest()
