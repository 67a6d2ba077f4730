"""Which inference server gets a request: group affinity with bounded load, over the list that the gateway sent last.

    Router     the servers, and the requests that wait for one; one per process
    Affinity   what ties a trial to a server: its group, and the server that answered last
    Place      one server as this process sees it, with its limit of requests (`actors.concurrency`)

The trials of a group start from one prompt, so each group has an order of servers, the same in every process
(rendezvous hashing, Thaler and Ravishankar 1998, weighted by capacity). A trial stays with the server that holds its
prefix; else it takes the first of its group's order. Either only if that has room: no more than `SLACK` times its share
of this process's requests (consistent hashing with bounded loads: Mirrokni, Thorup, Zadimoghaddam 2018), and fewer than
its limit. A new server is preferred at once by the groups that have it first, and gets what the bound keeps from the
others. While no server has room requests wait in order.

A server that failed is set aside, for twice as long each time in a row, and is then asked once before it is asked more.
One that is missing from the list is gone: its requests are given up if it does not return within `GRACE_SECONDS`.

Belongs to one event loop and needs no locks: nothing awaits between looking and counting.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from lamer.actors.concurrency import ConcurrencyLimit
from lamer.common.messages import ServerInfo

SLACK = 1.25
SET_ASIDE_SECONDS = 1.0
LONGEST_SET_ASIDE_SECONDS = 15.0
_TIMER_SLACK = 0.001
"""A timer may ring a tick of the clock early."""
GRACE_SECONDS = 5.0
"""How long a server may be missing from the list before its requests are given up."""


@dataclass(slots=True, eq=False)
class Place:
    """A server as this process sees it.

    in_flight: our requests. usable_at: loop time until which it is set aside. gives_up_at: loop time at which requests
    there end since the server is gone, None while it is listed.
    """

    info: ServerInfo
    limit: ConcurrencyLimit
    in_flight: int = 0
    failures: int = 0
    usable_at: float = 0.0
    gives_up_at: float | None = None
    sendings: set[asyncio.Timeout] = field(default_factory=set)

    @property
    def has_capacity(self) -> bool:
        """Whether its limit allows one more request."""
        return self.in_flight < self.limit.value

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Around one request there.

        Raises:
            TimeoutError: the server is gone for good.
        """
        async with asyncio.timeout_at(self.gives_up_at) as bound:
            self.sendings.add(bound)
            try:
                yield
            finally:
                self.sendings.discard(bound)

    def give_up_at(self, when: float | None) -> None:
        """End the requests there at loop time `when`; None: let them run."""
        self.gives_up_at = when
        for bound in self.sendings:
            if not bound.expired():
                bound.reschedule(when)


@dataclass(slots=True)
class Affinity:
    """What a trial's requests have in common.

    key: equal for the trials of a group. version: the only policy version that may answer, None for any. min_version:
    servers that hold an older one are not used as long as one is listed that does not. avoided: failed last, so that
    any other is better.
    """

    key: str = ""
    version: int | None = None
    min_version: int = 0
    last: Place | None = None
    avoided: Place | None = None
    arrivals: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    affinity: Affinity
    place: asyncio.Future[Place]


class Router:
    """Hands out places. set_aside_seconds: how long a server is set aside after its first failure in a row.

    is_random: take any server with capacity, whatever was sent there before, to compare with.
    """

    def __init__(
        self,
        set_aside_seconds: float = SET_ASIDE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        is_random: bool = False,
    ) -> None:
        self._places: tuple[Place, ...] = ()
        self._gone: tuple[Place, ...] = ()
        self._set_aside_seconds = set_aside_seconds
        self._grace_seconds = grace_seconds
        self._is_random = is_random
        self._arrivals = 0
        self._waiting: dict[tuple[int | None, int], deque[_Waiter]] = {}

    def replace(self, servers: Sequence[ServerInfo]) -> None:
        """Use these servers from now on. One that stays keeps its count of requests and its limit."""
        known = {(place.info.name, place.info.url): place for place in (*self._gone, *self._places)}
        listed, before = [], self._places
        for info in servers:
            place = known.pop((info.name, info.url), None)
            if place is None:
                place = Place(info, ConcurrencyLimit(info.max_running))
            if place not in before:
                self._arrivals += 1
                place.give_up_at(None)
            place.info = info
            place.limit.observe(info, place.in_flight)
            listed.append(place)
        self._places = tuple(listed)
        self._gone = tuple(place for place in known.values() if place.in_flight > 0)
        now = asyncio.get_running_loop().time()
        for place in self._gone:
            if place in before:
                place.give_up_at(now + self._grace_seconds)
        self._serve_waiting()

    async def acquire(self, affinity: Affinity) -> Place:
        """A place at a server that has room; give it back with `release`. Waits, in order, while there is none."""
        place = self._take(affinity)
        if place is not None:
            return place
        waiter = _Waiter(affinity, asyncio.get_running_loop().create_future())
        self._waiting.setdefault((affinity.version, affinity.min_version), deque()).append(waiter)
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if not waiter.place.cancelled():  # it was given a place at the moment it was cancelled
                self.release(waiter.place.result())
            raise

    def release(self, place: Place, *, has_failed: bool = False, has_answered: bool = False) -> None:
        """Give a place back. has_failed: the server could not be reached or broke, so it is set aside; has_answered: it
        is well.
        """
        place.in_flight -= 1
        loop = asyncio.get_running_loop()
        if has_answered:
            place.failures = 0
            place.limit.succeed()
        elif has_failed and place.usable_at <= loop.time():  # requests that failed together are one failure
            seconds = min(LONGEST_SET_ASIDE_SECONDS, self._set_aside_seconds * 2.0**place.failures)
            place.failures += 1
            place.usable_at = loop.time() + seconds
            place.limit.fail()
            loop.call_at(place.usable_at + _TIMER_SLACK, self._serve_waiting)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Hand out what has become free, to whoever has waited longest."""
        for waiting in self._waiting.values():
            while waiting:
                waiter = waiting[0]
                if not waiter.place.done():
                    place = self._take(waiter.affinity)
                    if place is None:
                        break
                    waiter.place.set_result(place)
                waiting.popleft()
        self._waiting = {needs: waiting for needs, waiting in self._waiting.items() if waiting}

    def _take(self, affinity: Affinity) -> Place | None:
        now = asyncio.get_running_loop().time()
        listed = [place for place in self._places if affinity.version in (None, place.info.policy_version)]
        fresh = [place for place in listed if place.info.policy_version >= affinity.min_version]
        usable = [place for place in fresh or listed if place.usable_at <= now]
        place = _choose_any(usable, affinity) if self._is_random else self._choose(usable, affinity)
        if place is None:
            for each in usable:
                each.limit.reached()
            return None
        place.in_flight += 1
        affinity.last, affinity.arrivals = place, self._arrivals
        return place

    def _choose(self, usable: Sequence[Place], affinity: Affinity) -> Place | None:
        total = sum(place.in_flight for place in usable) + 1
        weights = sum(place.limit.value for place in usable)

        def has_room(place: Place) -> bool:
            bound = math.ceil(SLACK * total * place.limit.value / weights)
            return place.has_capacity and place.in_flight + 1 <= bound

        last = affinity.last if affinity.arrivals == self._arrivals else None
        if last is not None and last is not affinity.avoided and last in usable and has_room(last):
            return last
        with_room = (place for place in usable if has_room(place))
        key = affinity.key
        return max(with_room, key=lambda each: (each is not affinity.avoided, _score(key, each.info)), default=None)


def _choose_any(usable: Sequence[Place], affinity: Affinity) -> Place | None:
    free = [place for place in usable if place.has_capacity]
    others = [place for place in free if place is not affinity.avoided]
    return random.choice(others or free) if free else None


def _score(key: str, server: ServerInfo) -> tuple[float, str]:
    """How much a group prefers a server; a fair share of all groups prefers it most."""
    return (max(1, server.max_running) / -math.log(_uniform(key, server.name)), server.url)


@functools.lru_cache(maxsize=8192)
def _uniform(key: str, name: str) -> float:
    """A number in (0, 1) that is the same in every process."""
    digest = hashlib.blake2b(f"{key}|{name}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2.0**52
