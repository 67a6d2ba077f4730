"""A model folder that stays while a server starts on it, though the learner drops the folders of old versions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from lamer.common.folders import scratch_folder

log = logging.getLogger("lamer.host")


@contextlib.asynccontextmanager
async def pinned(folder: Path) -> AsyncIterator[Path]:
    """Hard links to the folder's files, in a hidden folder beside it; the folder itself where links can't be made."""
    links = _linked(folder)
    try:
        place = await asyncio.to_thread(links.__enter__)
    except OSError as error:  # a read-only share, or a file system without links
        log.info("a server starts on %s itself, which can't be pinned: %s", folder, error)
        yield folder
        return
    try:
        yield place
    finally:
        await asyncio.to_thread(links.__exit__, None, None, None)


@contextlib.contextmanager
def _linked(folder: Path) -> Iterator[Path]:
    with scratch_folder(folder.parent, ".starting-") as links:
        for path in folder.iterdir():
            if path.is_file():
                os.link(path.resolve(), links / path.name)
        yield links
