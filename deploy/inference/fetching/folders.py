"""Weights as folders: read where they lie, or fetched over the run's socket where they can't be.

PathDelivery    the announced folder itself: same machine or shared disk
AutoDelivery    PathDelivery where the announced folder is readable here, else StreamDelivery
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.common.messages import AnyMessage, WeightAnnouncement
from lamer.deploy.inference.fetching.base import DeliveryFailed, Fetched, FolderDelivery, Mail
from lamer.deploy.inference.fetching.checks import check_folder
from lamer.deploy.inference.fetching.stream import StreamDelivery

log = logging.getLogger("lamer.host")

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


def _is_here(wanted: WeightAnnouncement) -> bool:
    folder = Path(wanted.path)
    try:
        return folder.is_dir() and all((folder / file.name).stat().st_size == file.size for file in wanted.files)
    except (OSError, ValueError):
        return False
