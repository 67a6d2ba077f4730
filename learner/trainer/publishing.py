"""Publishing: a policy version becomes a folder of weights on the learner's disk, and the gateway is told.

The first step of the weights' journey: published here, announced and served by the gateway (`learner.gateway.weights`),
fetched (`deploy.inference.fetching`) and applied (`deploy.inference.applying`) by every host.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from lamer.common.messages import AnyMessage, Published
from lamer.learner.trainer.broadcast.broadcaster import Broadcaster
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

    def folder(self, version: int) -> Path:
        """The model folder of a policy version."""
        return self._weights / f"v{version}" if version else self._first

    async def publish(self, updater: PolicyUpdater) -> None:
        """Write the version that `updater` holds, and announce it to the gateway and to the members of a broadcast."""
        folder = self.folder(updater.version)
        files = await asyncio.to_thread(updater.save_weights, folder)
        await self._send(Published(version=updater.version, path=str(folder.resolve()), files=files))
        await self._broadcaster.offer(updater.version, folder, files)
        await asyncio.to_thread(self._remove_old, updater.version)

    def _remove_old(self, version: int) -> None:
        """Drop folders of versions that no host can still be fetching and no trial to be trained was played with."""
        oldest = version - KEPT_VERSIONS - self._max_staleness
        for folder in self._weights.glob("v*"):
            if folder.name[1:].isdigit() and int(folder.name[1:]) <= oldest:
                shutil.rmtree(folder)
