"""A model folder that stays while a server starts on it, though the learner drops the folders of old versions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

log = logging.getLogger("lamer.host")


@contextlib.asynccontextmanager
async def pinned(folder: Path) -> AsyncIterator[Path]:
    """Hard links to the folder's files, in a hidden folder beside it; the folder itself where links can't be made."""
    try:
        links = await asyncio.to_thread(_link, folder)
    except OSError as error:  # a read-only share, or a file system without links
        log.info("a server starts on %s itself, which can't be pinned: %s", folder, error)
        yield folder
        return
    try:
        yield links
    finally:
        await asyncio.to_thread(shutil.rmtree, links, ignore_errors=True)


def _link(folder: Path) -> Path:
    links = Path(tempfile.mkdtemp(prefix=".starting-", dir=folder.parent))
    try:
        for path in folder.iterdir():
            if path.is_file():
                os.link(path.resolve(), links / path.name)
    except OSError:
        shutil.rmtree(links, ignore_errors=True)
        raise
    return links
