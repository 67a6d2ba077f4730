"""What a dataset is: its official files, how arriving files are chosen, how its folder is examined."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lamer.envs.datasets.arrival import Member
from lamer.envs.datasets.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Source:
    """An official file: its name, where it is, tried in order, its size in bytes and SHA-256 in hex."""

    name: str
    urls: tuple[str, ...]
    size: int
    sha256: str


class FileState(enum.StrEnum):
    """What an examination finds.

    official: the very file that its authors publish. kept: another one, as it was when it arrived. unrecorded: nobody
    knows what it was when it arrived. damaged: it changed since, or can't be read. missing: environments need it.
    absent: it is not there, and environments do without.
    """

    OFFICIAL = "official"
    KEPT = "kept"
    UNRECORDED = "unrecorded"
    DAMAGED = "damaged"
    MISSING = "missing"
    ABSENT = "absent"

    @property
    def is_usable(self) -> bool:
        """Whether an environment can be played with it."""
        return self not in (FileState.DAMAGED, FileState.MISSING)


@dataclass(frozen=True, slots=True)
class Examined:
    """One part of a dataset's folder. size: bytes. sha256: of its content, "" where there is none. note: what it holds,
    or what is wrong.
    """

    name: str
    state: FileState
    size: int = 0
    sha256: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Files that arrived, relative to the folder they were put into, and what was left out or is worth knowing."""

    files: tuple[PurePosixPath, ...]
    notes: tuple[str, ...] = ()


class Dataset(ABC):
    """A dataset by its name. expected: the files that are looked for, in words."""

    name: str
    sources: tuple[Source, ...]
    expected: str

    @abstractmethod
    def choose(self, members: Iterable[Member], staging: Path) -> Chosen:
        """Write into `staging`, under the names that environments know, the files among `members` that belong here.

        Raises:
            BadInput: a file has the name of one of ours and can't be what it says.
        """

    @abstractmethod
    def settle(self, folder: Path, chosen: Chosen, ledger: Ledger) -> Ledger:
        """After chosen files were moved to `folder`: remove what they replace; the ledger with their hashes in it."""

    @abstractmethod
    def examine(self, folder: Path, ledger: Ledger) -> tuple[Examined, ...]:
        """Every part that environments expect, present or not."""

    def wanted(self, folder: Path, ledger: Ledger) -> tuple[Source, ...]:
        """The sources that a fetch brings to `folder`: those whose part there is not the official one."""
        official = {part.name for part in self.examine(folder, ledger) if part.state is FileState.OFFICIAL}
        return tuple(source for source in self.sources if source.name not in official)
