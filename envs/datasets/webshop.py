"""WebShop's small setting: 1,000 products, their attributes, and the instructions that people wrote.

Addresses: the Google Drive ids in `setup.sh` of princeton-nlp/WebShop (commit 15869a4), and a pinned copy on Hugging
Face, since Drive asks for a sign-in at times. Sizes and hashes are those that several public repositories record for
these files; that of the attributes is also the one of our test copy.

A file may come compressed (.json.gz); hashes are of the JSON itself.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import msgspec

from lamer.common.errors import BadInput
from lamer.envs.datasets.arrival import Member
from lamer.envs.datasets.definition import Chosen, Dataset, Examined, FileState, Source
from lamer.envs.datasets.ledger import Entry, Ledger, hash_stream

MOST_BYTES = 1 << 30
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
_COPY = "https://huggingface.co/datasets/YWZBrandon/webshop-data/resolve/ce990fff5aee388db2706f07820c578ab68e0453/"


@dataclass(frozen=True, slots=True)
class Part:
    """A file that the environment reads. stem: its name without ".json"; variants: other names it is known by.

    keeps_gzip: whether it may lie compressed. unit: what its JSON, a `kind`, holds. is_needed: not playable without.
    """

    stem: str
    variants: re.Pattern[str]
    keeps_gzip: bool
    kind: type[list[Any]] | type[dict[str, Any]]
    unit: str
    is_needed: bool
    source: Source

    @property
    def name(self) -> str:
        """The official file's name."""
        return f"{self.stem}.json"

    def present(self, folder: Path) -> Path | None:
        """Where it lies in a folder, if it does."""
        names = (self.name, f"{self.name}.gz") if self.keeps_gzip else (self.name,)
        return next((folder / name for name in names if (folder / name).is_file()), None)


def _source(name: str, drive: str, size: int, sha256: str) -> Source:
    return Source(name, (f"{_DRIVE}{drive}", f"{_COPY}{name}"), size, sha256)


PRODUCTS = Part(
    stem="items_shuffle_1000",
    variants=re.compile(r"items_shuffle_1000(\.rebuilt)?\.json(\.gz)?"),
    keeps_gzip=True,
    kind=list,
    unit="products",
    is_needed=True,
    source=_source(
        "items_shuffle_1000.json",
        "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib",
        4_467_013,
        "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269",
    ),
)
ATTRIBUTES = Part(
    stem="items_ins_v2_1000",
    variants=re.compile(r"items_ins_v2_1000\.json(\.gz)?"),
    keeps_gzip=False,
    kind=dict,
    unit="products with attributes",
    is_needed=True,
    source=_source(
        "items_ins_v2_1000.json",
        "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu",
        147_099,
        "f88a36314a397b53b3d9c3fa5878e5f7b26d35019a51ec83fbedeca61a948f6f",
    ),
)
INSTRUCTIONS = Part(
    stem="items_human_ins",
    variants=re.compile(r"items_human_ins(\.subset\d+)?\.json(\.gz)?"),
    keeps_gzip=False,
    kind=dict,
    unit="products with instructions",
    is_needed=False,
    source=_source(
        "items_human_ins.json",
        "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O",
        5_137_548,
        "cf78667548a71786e1d9049c24b802e48e1084ad4bb021cae56ce1f6d96954a3",
    ),
)
PARTS = (PRODUCTS, ATTRIBUTES, INSTRUCTIONS)


class WebShop(Dataset):
    """Three JSON files."""

    name = "webshop"
    sources = tuple(part.source for part in PARTS)
    expected = ", ".join(part.name for part in PARTS)

    def choose(self, members: Iterable[Member], staging: Path) -> Chosen:
        """The members with the names of the parts; one with the official name goes before a variant of it."""
        taken: dict[str, Member] = {}
        for member in members:
            part = next((part for part in PARTS if part.variants.fullmatch(member.path.name)), None)
            if part is None or (part.stem in taken and not _is_plain(part, member)):
                continue
            _take(part, member, staging)
            taken[part.stem] = member
        files = [path for part in PARTS if (path := part.present(staging)) is not None]
        notes = [
            f"{taken[part.stem].path.name} was taken for {part.name}"
            for part in PARTS
            if part.stem in taken and not _is_plain(part, taken[part.stem])
        ]
        return Chosen(tuple(PurePosixPath(file.name) for file in files), tuple(notes))

    def settle(self, folder: Path, chosen: Chosen, ledger: Ledger) -> Ledger:
        """Remove the other form, compressed or not, of a file that arrived."""
        arrived = {file.name for file in chosen.files}
        entries: dict[str, Entry] = {}
        for part in PARTS:
            forms = {part.name, f"{part.name}.gz"}
            for name in forms & arrived:
                for other in forms - {name}:
                    (folder / other).unlink(missing_ok=True)
                entries[part.name] = Entry(_content_hash(folder / name), (folder / name).stat().st_size)
        return ledger.with_entries(entries)

    def examine(self, folder: Path, ledger: Ledger) -> tuple[Examined, ...]:
        """One line a file."""
        return tuple(_examine(part, folder, ledger) for part in PARTS)


def _is_plain(part: Part, member: Member) -> bool:
    return member.path.name in (part.name, f"{part.name}.gz")


def _take(part: Part, member: Member, staging: Path) -> None:
    """Write a member as the part that it is, uncompressed where it must be; check that it holds what it should."""
    is_compressed = member.path.name.endswith(".gz")
    for name in (part.name, f"{part.name}.gz"):
        (staging / name).unlink(missing_ok=True)
    arrived = staging / (f"{part.name}.gz" if is_compressed else part.name)
    member.write(arrived, MOST_BYTES)
    try:
        content = _read(arrived)
        _count(part, content)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{member.path} in {member.origin} is not {part.name}: {error}") from error
    if is_compressed and not part.keeps_gzip:
        (staging / part.name).write_bytes(content)
        arrived.unlink()


def _examine(part: Part, folder: Path, ledger: Ledger) -> Examined:
    path = part.present(folder)
    if path is None:
        return Examined(part.name, FileState.MISSING if part.is_needed else FileState.ABSENT)
    size = path.stat().st_size
    try:
        found = _content_hash(path)
        note = f"{_count(part, _read(path)):,} {part.unit}"
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        return Examined(part.name, FileState.DAMAGED, size, note=f"can't be read: {error}")
    entry = ledger.entries.get(part.name)
    if found == part.source.sha256:
        state = FileState.OFFICIAL
    elif entry is None:
        state = FileState.UNRECORDED
    elif entry.sha256 == found:
        state = FileState.KEPT
    else:
        return Examined(part.name, FileState.DAMAGED, size, found, f"arrived with SHA-256 {entry.sha256}")
    return Examined(part.name, state, size, found, note)


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read(path: Path) -> bytes:
    with _open(path) as stream:
        return stream.read()


def _content_hash(path: Path) -> str:
    with _open(path) as stream:
        return hash_stream(stream)


def _count(part: Part, content: bytes) -> int:
    """How many things a part holds.

    Raises:
        msgspec.DecodeError: it is not JSON, or of another shape.
    """
    shape: Mapping[type, Any] = {list: list[dict[str, msgspec.Raw]], dict: dict[str, msgspec.Raw]}
    return len(msgspec.json.decode(content, type=shape[part.kind]))
