"""A model folder's small files, as the gateway sends them, kept on a machine that lacks the folder.

They lie under the user's cache, in a folder named by their contents: processes of one machine share it, and a run with
other files gets another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.common.folders import scratch_folder
from lamer.common.weights import NamedFile


def cache_root() -> Path:
    """`lamer/models` under XDG_CACHE_HOME, else under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamer" / "models"


def keep_model_files(files: Sequence[NamedFile], root: Path) -> Path:
    """Write files into a folder below `root`, named by their digest, unless they are there; that folder.

    It appears whole or not at all, however many processes write it at once.

    Raises:
        BadInput: a name is no plain file name, or stands twice. OSError: it can't be written.
    """
    _check_names(files)
    folder = root / model_files_digest(files)
    if _holds(folder, files):
        return folder
    with scratch_folder(root, ".new-") as temporary:
        for file in files:
            (temporary / file.name).write_bytes(file.data)
        with _alone(root):
            if not _holds(folder, files):  # else another process was faster
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    return folder


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """While no other process or thread of this machine is here for the same root."""
    with (root / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_names(files: Sequence[NamedFile]) -> None:
    names = [file.name for file in files]
    for name in names:
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise BadInput(f"the learner sent a model file named {name!r}, which is no plain file name")
    if len(set(names)) < len(names):
        raise BadInput(f"the learner sent a model file twice: {', '.join(sorted(names))}")


def model_files_digest(files: Sequence[NamedFile]) -> str:
    """What tells these files from any others, whatever their order: 32 hexadecimal digits."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        whole.update(f"{file.name}\0{len(file.data)}\0".encode() + file.data)
    return whole.hexdigest()[:32]


def _holds(folder: Path, files: Sequence[NamedFile]) -> bool:
    """Whether all files are in `folder`, undamaged."""
    try:
        return all((folder / file.name).read_bytes() == file.data for file in files)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # or another process is replacing it
        return False
