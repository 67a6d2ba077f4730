"""Which inference server gets a request: affinity with bounded load, over the list that the gateway sent last.

A trial stays with the server that holds its prefix as long as that server carries no more than `SLACK` times its share
of the requests; otherwise the least loaded server takes it. A server that failed is set aside for a moment, each time
in a row for twice as long. Requests wait while no server may be used; the list may be replaced while requests run.

Belongs to one event loop and needs no locks: nothing awaits between looking and counting.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from common.messages import ServerInfo

SLACK = 1.25
SET_ASIDE_SECONDS = 1.0
LONGEST_SET_ASIDE_SECONDS = 15.0


@dataclass(slots=True, eq=False)
class Place:
    """A server as this process sees it. in_flight: our requests. usable_at: loop time until which it is set aside."""

    info: ServerInfo
    in_flight: int = 0
    failures: int = 0
    usable_at: float = 0.0

    @property
    def capacity(self) -> int:
        """Sequences that the server runs at once."""
        return max(1, self.info.max_running)

    @property
    def load(self) -> float:
        """Our requests there as a share of its capacity."""
        return self.in_flight / self.capacity


class Router:
    """Hands out places. set_aside_seconds: how long a server is set aside after its first failure in a row."""

    def __init__(self, set_aside_seconds: float = SET_ASIDE_SECONDS) -> None:
        self._places: tuple[Place, ...] = ()
        self._set_aside_seconds = set_aside_seconds
        self._changed = asyncio.Event()

    @property
    def newest_version(self) -> int:
        """The highest policy version that a listed server holds, 0 while there is none."""
        return max((place.info.policy_version for place in self._places), default=0)

    def replace(self, servers: Sequence[ServerInfo]) -> None:
        """Use these servers from now on. One that stays keeps its count of requests; one that went finishes its own."""
        known = {(place.info.name, place.info.url): place for place in self._places}
        places = []
        for info in servers:
            place = known.get((info.name, info.url)) or Place(info)
            place.info = info
            places.append(place)
        self._places = tuple(places)
        self._notify()

    async def acquire(self, preferred: Place | None = None, min_version: int = 0) -> Place:
        """A place at a server that holds at least policy version `min_version`; give it back with `release`.

        Waits while there is none. preferred: where the trial's prefix is cached.
        """
        while (place := self._choose(preferred, min_version)) is None:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_return(min_version)):
                    await changed.wait()
        place.in_flight += 1
        return place

    def release(self, place: Place, has_failed: bool = False) -> None:
        """Give a place back. has_failed: the server could not be reached or broke, so it is set aside."""
        place.in_flight -= 1
        now = asyncio.get_running_loop().time()
        if not has_failed:
            place.failures = 0
        elif place.usable_at <= now:  # requests that failed together are one failure
            seconds = min(LONGEST_SET_ASIDE_SECONDS, self._set_aside_seconds * 2.0**place.failures)
            place.failures += 1
            place.usable_at = now + seconds

    def _choose(self, preferred: Place | None, min_version: int) -> Place | None:
        now = asyncio.get_running_loop().time()
        usable = [
            place for place in self._places if place.usable_at <= now and place.info.policy_version >= min_version
        ]
        if preferred in usable and _has_room(preferred, usable):
            return preferred
        return min(usable, key=lambda place: (place.load, random.random()), default=None)

    def _next_return(self, min_version: int) -> float | None:
        """Loop time at which the next server that was set aside may be used again, None if there is none."""
        now = asyncio.get_running_loop().time()
        times = (place.usable_at for place in self._places if place.info.policy_version >= min_version)
        return min((time for time in times if time > now), default=None)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _has_room(place: Place, usable: Sequence[Place]) -> bool:
    """Whether one more request leaves a place within `SLACK` times its share of all requests.

    The bound of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018), capacities as weights.
    """
    total = sum(each.in_flight for each in usable) + 1
    share = place.capacity / sum(each.capacity for each in usable)
    return place.in_flight + 1 <= math.ceil(SLACK * total * share)
