"""The part of SGLang's HTTP contract by which a server takes weights from a process group, in one place.

Releases differ: newer ones want a session around the buckets of an update (`/begin_weight_update`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from lamer.common.messages import GroupOffer
from lamer.common.weights import Bucket
from lamer.deploy.inference.engines.client import ServerClient, ServerRefused

SERVER_ERRORS = (ServerRefused, OSError, aiohttp.ClientError)
"""What a request to the server may raise; a timeout is an OSError."""
_BEGIN = "/begin_weight_update"


class JoinBody(msgspec.Struct):
    """Body of `/init_weights_update_group`."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    group_name: str
    backend: str


class LeaveBody(msgspec.Struct):
    """Body of `/destroy_weights_update_group`."""

    group_name: str


class BeginBody(msgspec.Struct):
    """Body of `/begin_weight_update`."""

    selector: str = "target"


class EndBody(msgspec.Struct):
    """Body of `/end_weight_update`."""


class BucketBody(msgspec.Struct, omit_defaults=True):
    """Body of `/update_weights_from_distributed`. An update without weight_version keeps the old label."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    group_name: str
    flush_cache: bool
    weight_version: str | None = None


class GroupClient:
    """A server as a member of groups. Requests are bounded; a TimeoutError means that the server hangs."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client
        self._has_sessions: bool | None = None

    async def enter(self, offer: GroupOffer, seconds: float) -> None:
        """Enter a group; returns when all its members have.

        Raises:
            SERVER_ERRORS: it could not.
        """
        if self._has_sessions is None:
            self._has_sessions = _BEGIN in await self._client.routes()
        body = JoinBody(
            offer.master_address, offer.master_port, offer.rank_offset, offer.world_size, offer.group, offer.backend
        )
        async with asyncio.timeout(seconds):
            await self._client.post("/init_weights_update_group", body)

    async def leave(self, group: str) -> None:
        """Leave a group, if the server is in it."""
        with contextlib.suppress(*SERVER_ERRORS):
            await self._client.post("/destroy_weights_update_group", LeaveBody(group))

    async def receive(
        self, buckets: Sequence[Bucket], group: str, weight_version: str, *, flush_cache: bool, seconds: float
    ) -> None:
        """Take the buckets that rank 0 broadcasts, and then the label. seconds: for each.

        Raises:
            SERVER_ERRORS: the server may hold some of them.
        """
        last = len(buckets) - 1
        async with self._session():
            for index, bucket in enumerate(buckets):
                body = BucketBody(bucket.names, bucket.dtypes, bucket.shapes, group, flush_cache and index == last)
                body.weight_version = weight_version if index == last else None
                async with asyncio.timeout(seconds):
                    await self._client.post("/update_weights_from_distributed", body)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[None]:
        """Ended also after an error, but not for a server that hangs."""
        if not self._has_sessions:
            yield
            return
        await self._client.post(_BEGIN, BeginBody())
        try:
            yield
        except TimeoutError:
            raise
        except BaseException:
            with contextlib.suppress(*SERVER_ERRORS):
                await self._client.post("/end_weight_update", EndBody())
            raise
        await self._client.post("/end_weight_update", EndBody())
