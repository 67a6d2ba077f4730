"""Weights as folders: read where they lie, or fetched over the run's socket where they can't be.

PathDelivery    the announced folder itself: same machine or shared disk
AutoDelivery    PathDelivery where the announced folder is readable here, else StreamDelivery
check_folder    what every delivered folder must satisfy
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from common.errors import BadInput
from common.messages import AnyMessage, WeightAnnouncement
from common.weights import WEIGHT_SUFFIX, WeightFile
from deploy.inference.delivery.base import DeliveryFailed, Fetched, FolderDelivery, Mail
from deploy.inference.delivery.stream import StreamDelivery
from learner.folders import file_digest

log = logging.getLogger("lamer.host")

INDEX = "model.safetensors.index.json"
KINDS = ("auto", "path", "stream")


def make_folder_delivery(kind: str, cache: Path, mail: Mail, anchor_every: int) -> FolderDelivery:
    """The delivery that a host uses.

    kind: one of `KINDS`. cache: folder of this host for what is fetched, kept across restarts; one host at a time may
    use it. anchor_every: versions between two full copies of a stream, 0 for never.

    Raises:
        BadInput: there is no such kind.
    """
    match kind:
        case "path":
            return PathDelivery()
        case "stream":
            return StreamDelivery(cache, mail, anchor_every)
        case "auto":
            return AutoDelivery(PathDelivery(), StreamDelivery(cache, mail, anchor_every))
        case _:
            raise BadInput(f"there is no delivery of folders {kind!r}: choose one of {', '.join(KINDS)}")


class PathDelivery:
    """Reads the announced folder where it lies."""

    async def fetch(self, wanted: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """The announced folder, every file checked. is_full makes no difference: nothing is built on other weights.

        Raises:
            DeliveryFailed: the folder is not here, a file is damaged, or a name leads out of it.
        """
        began = time.monotonic()
        folder = Path(wanted.path)
        await asyncio.to_thread(check_folder, folder, wanted.files)
        return Fetched(folder, time.monotonic() - began, 0)

    def take(self, message: AnyMessage) -> None:
        """Nothing is asked of the gateway, so no message is an answer."""


class AutoDelivery:
    """Uses `path` for every announcement whose folder is readable here, `stream` for the others."""

    def __init__(self, path: PathDelivery, stream: StreamDelivery) -> None:
        self._path = path
        self._stream = stream
        self._was_here: bool | None = None

    async def fetch(self, wanted: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """The announced folder if it holds the announced files in their sizes, else a copy of it.

        Raises:
            DeliveryFailed: neither can be had.
        """
        is_here = await asyncio.to_thread(_is_here, wanted)
        if is_here != self._was_here:
            self._was_here = is_here
            log.info("weights are %s", f"read from {wanted.path}" if is_here else "streamed from the learner")
        if is_here:
            try:
                return await self._path.fetch(wanted, is_full=is_full)
            except DeliveryFailed as error:
                log.warning("policy version %d is streamed: %s", wanted.version, error)
        return await self._stream.fetch(wanted, is_full=is_full)

    def take(self, message: AnyMessage) -> None:
        """Answers are for the stream."""
        self._stream.take(message)


def check_names(files: tuple[WeightFile, ...]) -> None:
    """Weight files are named once each, by a plain name that stays inside a folder.

    Raises:
        DeliveryFailed: one is not.
    """
    names = [file.name for file in files]
    for name in names:
        if not name.endswith(WEIGHT_SUFFIX) or name.startswith(".") or "\0" in name or Path(name).name != name:
            raise DeliveryFailed(f"{name!r} is no name of a weight file such as model{WEIGHT_SUFFIX}")
        if names.count(name) > 1:
            raise DeliveryFailed(f"the weight file {name} is announced twice")


def check_index(folder: Path, files: tuple[WeightFile, ...]) -> None:
    """The index of `folder`, if it has one, names only announced files.

    Raises:
        DeliveryFailed: it names others, or can't be read.
    """
    path = folder / INDEX
    if not path.exists():
        return
    try:
        index: Mapping[str, Mapping[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        named = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeliveryFailed(f"{path} is no index of weight files: {error!r}") from error
    others = sorted(map(str, named - {file.name for file in files}))
    if others:
        raise DeliveryFailed(f"{path} names {', '.join(others[:3])}, which the announcement does not: refused")


def check_folder(folder: Path, files: tuple[WeightFile, ...]) -> None:
    """`folder` holds exactly what was announced. Reads all files.

    Raises:
        DeliveryFailed: it does not; the message names the file, what it has and what it should have.
    """
    if not folder.is_dir():
        raise DeliveryFailed(f"there is no folder {folder} on this machine: use --delivery stream (or auto)")
    check_names(files)
    check_index(folder, files)
    for file in files:
        path = folder / file.name
        try:
            _check_inside(folder, path)
            size = path.stat().st_size
            if size != file.size:
                raise DeliveryFailed(f"{path} has {size} bytes, {file.size} were announced")
            digest = file_digest(path)
        except OSError as error:
            raise DeliveryFailed(f"{path} can't be read: {error}") from error
        if digest != file.digest:
            raise DeliveryFailed(f"{path} has SHA-256 {digest}, {file.digest} was announced")


def _check_inside(folder: Path, path: Path) -> None:
    """Links may not lead out of the folder, but for those of a Hugging Face cache (snapshots/REV/x -> blobs/y)."""
    real, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, blobs):
        raise DeliveryFailed(f"{path} leads out of its folder, to {real}: refused")


def _is_here(wanted: WeightAnnouncement) -> bool:
    folder = Path(wanted.path)
    try:
        return folder.is_dir() and all((folder / file.name).stat().st_size == file.size for file in wanted.files)
    except (OSError, ValueError):
        return False
