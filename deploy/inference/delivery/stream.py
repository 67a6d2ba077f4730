"""Weights over the run's socket, for a host without a disk in common with the learner."""

from __future__ import annotations

from pathlib import Path

from common.messages import AnyMessage, WeightAnnouncement
from deploy.inference.delivery.base import DeliveryFailed, Fetched, Mail


class StreamDelivery:
    """Fetches weights into a cache folder, as differences from those fetched before."""

    def __init__(self, cache: Path, mail: Mail, anchor_every: int) -> None:
        """cache: kept across restarts; belongs to this host alone. anchor_every: versions between two full copies."""
        self._cache = cache
        self._mail = mail
        self._anchor_every = anchor_every

    async def fetch(self, wanted: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """The weights as a folder of the cache. A later call waits until an earlier one was cancelled or is done.

        Raises:
            DeliveryFailed: they can't be had, or are damaged.
        """
        raise DeliveryFailed("streaming is not there yet")

    def take(self, message: AnyMessage) -> None:
        """An answer of the gateway, or Welcome after a reconnection."""
