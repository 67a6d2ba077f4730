"""A host process that fetches what is announced first, prints how many bytes that moved, and ends."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from common.keys import load_client_keys
from tests.deploy.delivering import fetching_host


async def main(url: str, keys: Path, cache: Path) -> None:
    async with fetching_host(url, load_client_keys(keys), cache) as host:
        fetched = await host.delivery.fetch(await host.announcement(0))
        print(fetched.size, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
