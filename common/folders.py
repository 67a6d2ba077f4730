"""Folders that appear whole or not at all: written under a temporary name, synced, then renamed.

    whole_folder    a folder that becomes `target`, in place of one of that name if wanted
    scratch_folder  a folder that goes away again
    sweep           removes what killed processes left of both, and puts back what they had set aside

Beside a temporary folder `.NAME.TOKEN` lies `.NAME.TOKEN.lock`, held by the process that writes it: the kernel lets go
of it when that process ends, however it ends. `.NAME.TOKEN.replaced` is the old NAME while the new one takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = ("tmpfs", "ramfs")
_LOCK, _REPLACED = ".lock", ".replaced"
_LEFTOVER = re.compile(rf"(?P<stem>\..*?[a-z0-9_]{{8}})(?:{re.escape(_LOCK)}|{re.escape(_REPLACED)})?")
_TOKEN_BYTES = 4


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Force every file directly in `folder`, and the folder's own entry list, to disk, if they are on one."""
    if is_in_memory(folder):
        return
    for path in [*(entry for entry in folder.iterdir() if entry.is_file()), folder]:
        _sync(path)


def is_in_memory(path: Path) -> bool:
    """Whether a file or folder lies in memory, as in /dev/shm, so that there is nothing to force to disk; False where
    the system does not say.
    """
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = [line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == number]
    return any(kind in _IN_MEMORY for kind in kinds)


@contextmanager
def whole_folder(target: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends without an error.

    After an error nothing is left behind. At every moment the old or the new folder is there whole: as `target`, or,
    where a process is killed between two renames, as what `sweep` makes `target` of.

    Args:
        replaces: takes the place of a folder that is there. Otherwise one that another process has put there meanwhile
            stays and this one is removed: both were made from the same description.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    _sweep(target.parent, prefix, is_ours=False)
    with _claimed(target.parent, prefix) as temporary:
        yield temporary
        temporary.chmod(0o755)
        sync_folder(temporary)
        if replaces:
            _replace(temporary, target)
        else:
            _rename_unless_there(temporary, target)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`, which is removed at the end; those that killed processes left are removed now.

    prefix: what the names of such folders begin with, a dot first, and those of no others.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent, prefix)
    with _claimed(parent, prefix) as folder:
        yield folder


def sweep(parent: Path, prefix: str) -> None:
    """Remove the temporary folders in `parent` whose names begin with `prefix` and whose writers were killed, and put
    a folder back that was set aside by one of them, unless another is in its place.

    Folders that a live process writes stay as they are. `parent` is a folder in which only we make such names.
    """
    if parent.is_dir():
        _sweep(parent, prefix, is_ours=True)


@contextmanager
def _claimed(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder with a lock beside it that we hold until it is gone, whatever became of it."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(_TOKEN_BYTES)}"
        lock = folder.with_name(folder.name + _LOCK)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # swept before we held it
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _sweep(parent: Path, prefix: str, *, is_ours: bool) -> None:
    """is_ours: what begins with `prefix` and looks like a temporary folder is one, even without its lock."""
    names = {path.name for path in parent.iterdir() if path.name.startswith(prefix)}
    matches = [match for match in map(_LEFTOVER.fullmatch, names) if match is not None]
    for stem in sorted({match["stem"] for match in matches}):
        if not is_ours and names.isdisjoint({stem + _LOCK, stem + _REPLACED}):
            continue
        try:
            descriptor = os.open(parent / (stem + _LOCK), os.O_RDWR | os.O_CREAT, 0o644)
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it is being written
            continue
        else:
            _settle(parent / (stem + _REPLACED), parent / stem[1:].rpartition(".")[0])
            shutil.rmtree(parent / stem, ignore_errors=True)
            (parent / (stem + _LOCK)).unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`, which is set aside and only then removed."""
    aside = temporary.with_name(temporary.name + _REPLACED)
    try:
        while not _has_become(temporary, target):
            _settle(aside, target)  # of a round before this one: another process was faster
            with contextlib.suppress(FileNotFoundError):  # another process has set it aside
                target.rename(aside)
        _sync(target.parent)
    finally:
        _settle(aside, target)


def _has_become(folder: Path, target: Path) -> bool:
    """Rename a folder, unless there is a folder with something in it."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _settle(aside: Path, target: Path) -> None:
    """Remove what was set aside if something is in its place, else put it back."""
    if aside.is_dir() and (target.is_dir() or not _has_become(aside, target)):
        shutil.rmtree(aside, ignore_errors=True)


def _rename_unless_there(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir() or not any(target.iterdir()):
            raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
