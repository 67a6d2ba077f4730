"""Announced weights on their way to the server: fetched in the background, newest first, older ones dropped.

    announce   the gateway's word of new weights; an older version of the same lineage is refused
    run        fetches the newest wanted, until cancelled
    next       the newest fetched, once

While the server takes one version, the next is fetched, and only the newest of several waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import MALFORMED, RunFailed
from lamer.common.messages import WeightAnnouncement
from lamer.common.weights import identity_of, weight_files
from lamer.deploy.inference.fetching.base import DeliveryFailed, Fetched, FolderDelivery, LiveDelivery

log = logging.getLogger("lamer.host")

MAX_FETCH_TRIES = 8
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0


class OlderVersion(DeliveryFailed):
    """Weights older than those announced before, which nobody can want."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Weights that can be applied. fetched: their folder; None for a live delivery to put them in."""

    weights: WeightAnnouncement
    fetched: Fetched | None


class WeightFeed:
    """Belongs to one event loop."""

    def __init__(
        self,
        folders: FolderDelivery,
        live: LiveDelivery | None,
        own_copy: Path | None,
        on_trouble: Callable[[str], None],
    ) -> None:
        """own_copy: a model folder of this machine that may hold the announced weights already. on_trouble: told of
        failures that are tried again.
        """
        self._folders = folders
        self._live = live
        self._own_copy = own_copy
        self._own_identity: str | None = None
        self._on_trouble = on_trouble
        self._epoch = -1
        self._wanted: WeightAnnouncement | None = None
        self._ready: Ready | None = None
        self._has_ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._needs_folder = True
        self._is_full = False

    @property
    def wanted(self) -> WeightAnnouncement | None:
        """The newest announced weights."""
        return self._wanted

    def announce(self, weights: WeightAnnouncement, epoch: int) -> bool:
        """Want these weights from now on; False if they were wanted before. epoch: of the gateway that said so, whose
        lineages have nothing to do with another's.

        Raises:
            OlderVersion: they are older than those wanted.
        """
        before = self._wanted
        if before is not None and epoch == self._epoch and _place(weights) < _place(before):
            raise OlderVersion(
                f"policy version {weights.version} (lineage {weights.lineage}) was announced after version "
                f"{before.version} (lineage {before.lineage}): refused"
            )
        self._epoch, self._wanted = epoch, weights
        if before is not None and (before.version, before.identity) == (weights.version, weights.identity):
            return False
        self._is_full = False
        self._changed.set()
        return True

    def again(self, *, is_full: bool) -> None:
        """Fetch the newest once more, as a folder: for a server that starts, or refused what it was given.

        is_full: build on nothing that was fetched before.
        """
        self._ready = None
        self._has_ready.clear()
        self._needs_folder, self._is_full = True, is_full
        self._changed.set()

    async def next(self) -> Ready:
        """The newest weights that are ready and were not given out before."""
        while self._ready is None:
            await self._has_ready.wait()
        ready, self._ready = self._ready, None
        self._has_ready.clear()
        return ready

    async def run(self) -> None:
        """Fetch what is wanted, until cancelled.

        Raises:
            RunFailed: the newest weights can't be had, `MAX_FETCH_TRIES` times.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            assert self._wanted is not None
            fetching = asyncio.create_task(self._fetch_patiently(self._wanted))
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({fetching, changed}, return_when=asyncio.FIRST_COMPLETED)
                if fetching.done() and not self._changed.is_set():
                    self._ready = fetching.result()
                    self._has_ready.set()
            finally:
                for task in (fetching, changed):
                    task.cancel()
                await asyncio.gather(fetching, changed, return_exceptions=True)

    async def folder(self, weights: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """A checked folder of these weights: our own copy if it holds them, else fetched.

        Raises:
            DeliveryFailed: they can't be had.
        """
        if self._own_copy is not None and not is_full:
            if self._own_identity is None:
                self._own_identity = identity_of(await asyncio.to_thread(weight_files, self._own_copy))
            if self._own_identity == weights.identity:
                return Fetched(self._own_copy, 0.0, 0)
        return await self._folders.fetch(weights, is_full=is_full)

    async def _fetch_patiently(self, wanted: WeightAnnouncement) -> Ready:
        is_full, delay = self._is_full, RETRY_SECONDS
        if self._live is not None and not self._needs_folder and await self._live.wants(wanted):
            return Ready(wanted, None)
        for attempt in range(1, MAX_FETCH_TRIES + 1):
            try:
                fetched = await self.folder(wanted, is_full=is_full)
            except (DeliveryFailed, OSError, *MALFORMED) as error:
                last = error
            else:
                self._needs_folder = False
                return Ready(wanted, fetched)
            self._on_trouble(f"policy version {wanted.version} can't be fetched (try {attempt}): {last}")
            is_full = True
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_RETRY_SECONDS)
        raise RunFailed(f"policy version {wanted.version} can't be fetched: {last}")


def _place(weights: WeightAnnouncement) -> tuple[int, int]:
    return weights.lineage, weights.version
