"""A host's cache of streamed weights, kept across restarts.

v{version}-{identity}/   a complete model folder        partial/{payload}      what has come of a payload
companions/{digest}/     configuration, tokenizer ...   .name.random/          being written; garbage after a crash
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lamer.common.folders import sweep
from lamer.common.messages import WeightAnnouncement
from lamer.common.model_files import keep_model_files
from lamer.common.weights import NamedFile
from lamer.deploy.inference.fetching.base import DeliveryFailed
from lamer.deploy.inference.fetching.checks import check_folder

KEPT_FOLDERS = 2
KEPT_COMPANIONS = 2
_FOLDER = re.compile(r"v\d+-([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """A complete model folder of the cache and the identity of its weights."""

    identity: str
    folder: Path


class WeightCache:
    """The cache folder; blocking, one call at a time. It may belong to one host process at a time."""

    def __init__(self, folder: Path) -> None:
        """folder: made when it is first needed."""
        self._folder = folder

    def sweep(self) -> None:
        """Remove what a process that was killed left half written."""
        for place in (self._folder, self._folder / "companions"):
            sweep(place, ".")
            for path in place.glob(".*/"):  # an earlier version's; nobody else writes here
                shutil.rmtree(path, ignore_errors=True)

    def held(self) -> tuple[HeldWeights, ...]:
        """What is held, the last used first."""
        folders = [path for path in self._folder.glob("v*-*/") if _FOLDER.fullmatch(path.name)]
        folders.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return tuple(HeldWeights(path.name.partition("-")[2], path) for path in folders)

    def find(self, wanted: WeightAnnouncement) -> Path | None:
        """A folder with these weights, every file checked; a damaged one is removed."""
        for held in self.held():
            if held.identity == wanted.identity:
                if self._is_intact(held.folder, wanted):
                    return held.folder
                shutil.rmtree(held.folder)
        return None

    def place(self, wanted: WeightAnnouncement) -> Path:
        """Where the folder of these weights belongs."""
        return self._folder / f"v{wanted.version}-{wanted.identity}"

    def keep(self, folder: Path) -> None:
        """Note that `folder` is the newest; remove folders older than the last `KEPT_FOLDERS`."""
        os.utime(folder)
        for held in self.held()[KEPT_FOLDERS:]:
            shutil.rmtree(held.folder, ignore_errors=True)

    def partial(self, payload: str, size: int) -> Path:
        """The file that collects a payload of `size` bytes; those of other payloads are removed."""
        folder = self._folder / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name != payload or path.stat().st_size > size:
                path.unlink()
        return folder / payload

    def companions(self, digest: str) -> Path | None:
        """The folder of the files that belong beside weights, if they were kept."""
        folder = self._folder / "companions" / digest
        return folder if folder.is_dir() else None

    def keep_companions(self, files: tuple[NamedFile, ...]) -> Path:
        """Keep files that belong beside weights in a folder; those of older ones are removed.

        Raises:
            BadInput: a name is no plain file name.
        """
        root = self._folder / "companions"
        target = keep_model_files(files, root)
        others = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[KEPT_COMPANIONS:]:
            shutil.rmtree(path, ignore_errors=True)
        return target

    def _is_intact(self, folder: Path, wanted: WeightAnnouncement) -> bool:
        try:
            check_folder(folder, wanted.files)
        except DeliveryFailed:
            return False
        return True
