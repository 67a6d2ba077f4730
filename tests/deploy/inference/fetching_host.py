"""A host without a server, which only fetches. As a script it fetches what is announced first, prints how many bytes
that moved, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from lamer.common.keys import ClientKeys, load_client_keys
from lamer.common.messages import PROTOCOL_VERSION, Hello, Role, Shutdown, WeightAnnouncement
from lamer.common.session import Session
from lamer.deploy.inference.fetching.stream import StreamDelivery


@dataclass
class FetchingHost:
    """A host without a server: knows what was announced last, and fetches into its cache."""

    session: Session
    delivery: StreamDelivery
    announced: dict[int, WeightAnnouncement] = field(default_factory=dict)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self) -> None:
        while True:
            message = await self.session.receive()
            if isinstance(message, Shutdown):
                return
            if isinstance(message, WeightAnnouncement):
                self.announced[message.version] = message
                self.came.set()
            else:
                self.delivery.take(message)

    async def announcement(self, version: int) -> WeightAnnouncement:
        """Version `version` as it was announced."""
        while version not in self.announced:
            self.came.clear()
            await self.came.wait()
        return self.announced[version]


@contextlib.asynccontextmanager
async def fetching_host(url: str, keys: ClientKeys, cache: Path, anchor_every: int = 0) -> AsyncIterator[FetchingHost]:
    """A host that is connected to the gateway at `url`."""
    hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, Role.HOST, cache.name)
    session = await Session.open(url, keys, hello, 5.0)
    host = FetchingHost(session, StreamDelivery(cache, session.send, anchor_every))
    following = asyncio.create_task(host.follow())
    try:
        yield host
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await session.close("test is over")


async def main(url: str, keys: Path, cache: Path) -> None:
    async with fetching_host(url, load_client_keys(keys, Role.HOST), cache) as host:
        fetched = await host.delivery.fetch(await host.announcement(0))
        print(fetched.size, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
