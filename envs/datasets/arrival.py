"""Files at hand as a stream of members: a folder, an archive (.zip, .tar, .tar.gz, .tar.xz, .tar.bz2), or one file.

Archives inside a folder are opened too. A member whose path would leave the folder that it is unpacked into, a link,
and anything else that is no plain file make the whole archive unusable: `BadInput`, before the member is looked at.
Links to files in a folder of the user's own are followed.
"""

from __future__ import annotations

import functools
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from lamer.common.errors import BadInput, Missing

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError)
_CHUNK = 1 << 20
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Member:
    """A file that arrives. It must be read, if at all, before the next one is asked for.

    path: inside its folder or archive. origin: what it comes from, for errors.
    """

    path: PurePosixPath
    origin: Path
    _open: Callable[[], IO[bytes]]

    def write(self, target: Path, most_bytes: int) -> None:
        """Write its content to a new file, in folders that are made for it.

        Raises:
            BadInput: it is longer than `most_bytes`, or can't be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        try:
            with self._open() as source, target.open("wb") as copy:
                while chunk := source.read(_CHUNK):
                    written += len(chunk)
                    if written > most_bytes:
                        raise BadInput(f"{self.path} in {self.origin} is longer than {most_bytes} bytes")
                    copy.write(chunk)
        except _BROKEN as error:
            raise BadInput(f"{self.path} in {self.origin} can't be copied to {target}: {error}") from error

    def data(self, most_bytes: int) -> bytes:
        """Its content.

        Raises:
            BadInput: it is longer than `most_bytes`, or can't be read.
        """
        try:
            with self._open() as source:
                content = source.read(most_bytes + 1)
        except _BROKEN as error:
            raise BadInput(f"{self.path} in {self.origin} can't be read: {error}") from error
        if len(content) > most_bytes:
            raise BadInput(f"{self.path} in {self.origin} is longer than {most_bytes} bytes")
        return content


def members(place: Path) -> Iterator[Member]:
    """Every file of a folder or archive, or the file `place` itself.

    Raises:
        Missing: there is nothing at `place`. BadInput: an archive can't be read or is not safe.
    """
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file():
                yield from _of_file(path, PurePosixPath(path.relative_to(place).as_posix()))
    elif place.is_file():
        yield from _of_file(place, PurePosixPath(place.name))
    else:
        raise Missing(f"there is no folder or file {place}")


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.name.lower().endswith(ARCHIVES)


def _of_file(path: Path, inside: PurePosixPath) -> Iterator[Member]:
    if not is_archive(path):
        yield Member(inside, path, lambda: path.open("rb"))
        return
    try:
        yield from _of_zip(path) if path.name.lower().endswith(".zip") else _of_tar(path)
    except _BROKEN as error:
        raise BadInput(f"{path} can't be read as an archive: {error}") from error


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            inside = _safe(info.orig_filename, path)
            if info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                raise BadInput(f"{path} is refused: {info.filename} in it is no plain file")
            if info.flag_bits & _ENCRYPTED:
                raise BadInput(f"{path} is refused: {info.filename} in it is encrypted")
            yield Member(inside, path, functools.partial(archive.open, info))


def _of_tar(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            inside = _safe(info.name, path)
            if info.isdir():
                continue
            if not info.isreg():
                raise BadInput(f"{path} is refused: {info.name} in it is no plain file")
            content = archive.extractfile(info)
            if content is not None:
                yield Member(inside, path, functools.partial(_given, content))


def _given(content: IO[bytes]) -> IO[bytes]:
    return content


def _safe(name: str, archive: Path) -> PurePosixPath:
    """The path of a member that stays inside the folder it is unpacked into.

    Raises:
        BadInput: it does not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name.partition("/")[0]:
        raise BadInput(f"{archive} is refused: {name!r} in it would leave the folder it is unpacked into")
    return path
