"""Publishing: a policy version becomes a folder of weights on the learner's disk, and the gateway is told.

The first step of the weights' journey: published here, announced and served by the gateway (`learner.gateway.weights`),
fetched (`deploy.inference.fetching`) and applied (`deploy.inference.applying`) by every host.

Training does not wait for the disk: it goes on once the weights are copied to the host, while the folder is written,
hashed and announced. One write is under way at most: the next version's copy waits for it, so that versions are
announced in order, Published(n) always before BatchRequest(n + 1), and one copy is in memory.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from lamer.common.messages import AnyMessage, Published
from lamer.common.weights import WeightFile
from lamer.learner.trainer.broadcast.broadcaster import Broadcaster
from lamer.learner.trainer.model.snapshot import Snapshot
from lamer.learner.trainer.update import PolicyUpdater

KEPT_VERSIONS = 2


class Publisher:
    """Owns the run's folder of weights: weights/v1, v2, ..."""

    def __init__(
        self,
        weights: Path,
        first: Path,
        max_staleness: int,
        broadcaster: Broadcaster,
        send: Callable[[AnyMessage], Awaitable[None]],
    ) -> None:
        """weights: the folder. first: the model that the run started from, version 0. send: to the gateway."""
        self._weights = weights
        self._first = first
        self._max_staleness = max_staleness
        self._broadcaster = broadcaster
        self._send = send
        self._next: asyncio.Queue[tuple[int, Snapshot]] = asyncio.Queue(1)
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._newest = 0
        self._is_over = False

    def folder(self, version: int) -> Path:
        """The model folder of a policy version."""
        return self._weights / f"v{version}" if version else self._first

    async def run(self) -> None:
        """Write what `publish` leaves to be written, until cancelled: a write that has begun ends in its thread.

        Raises:
            OSError: a version can't be written.
        """
        while True:
            version, snapshot = await self._next.get()
            files = await asyncio.to_thread(snapshot.write, self.folder(version))
            del snapshot
            if not self._is_over:
                await self._announce(version, files)
            self._is_idle.set()

    async def publish(self, updater: PolicyUpdater) -> None:
        """Copy the version that `updater` holds, once the one before is written; it is written and announced later.

        Folders that nobody needs any more are removed here, where no response is being scored with them.
        """
        await self.settled()
        await asyncio.to_thread(self._remove_old, self._newest)
        self._is_idle.clear()
        self._next.put_nowait((updater.version, await asyncio.to_thread(updater.snapshot)))

    async def publish_again(self, updater: PolicyUpdater) -> None:
        """Announce the version that `updater` holds to a gateway, or to hosts, that may not know of it. Its folder is
        written only where it is not there whole: hosts may be reading it.
        """
        await self.settled()
        version, snapshot = updater.version, await asyncio.to_thread(updater.snapshot)
        files = await asyncio.to_thread(snapshot.written, self.folder(version))
        if files is None:
            files = await asyncio.to_thread(snapshot.write, self.folder(version))
        await self._announce(version, files)

    async def settled(self) -> None:
        """Wait until everything that was published is written and announced."""
        await self._is_idle.wait()

    def end(self) -> None:
        """The run was interrupted: what is being written is not announced any more."""
        self._is_over = True

    async def _announce(self, version: int, files: tuple[WeightFile, ...]) -> None:
        """Tell the gateway and the members of a broadcast."""
        folder = self.folder(version)
        await self._send(Published(version=version, path=str(folder.resolve()), files=files))
        await self._broadcaster.offer(version, folder, files)
        self._newest = version

    def _remove_old(self, version: int) -> None:
        """Drop folders of versions that no host can still be fetching and no trial to be trained was played with."""
        oldest = version - KEPT_VERSIONS - self._max_staleness
        for folder in self._weights.glob("v*"):
            if folder.name[1:].isdigit() and int(folder.name[1:]) <= oldest:
                shutil.rmtree(folder)
