"""Which server gets a request."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from actors.routing import Place, Router
from common.messages import ServerInfo


def server(name: str, version: int = 0, max_running: int = 8, url: str = "") -> ServerInfo:
    return ServerInfo(name, url or f"http://{name}", "", version, max_running)


def router(*servers: ServerInfo, set_aside_seconds: float = 1.0) -> Router:
    made = Router(set_aside_seconds)
    made.replace(servers)
    return made


async def acquire_all(of: Router, count: int) -> list[Place]:
    return [await of.acquire() for _ in range(count)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_least_loaded_server_is_taken() -> None:
    places = await acquire_all(router(server("a"), server("b")), 6)
    assert Counter(place.info.name for place in places) == {"a": 3, "b": 3}


async def test_load_is_relative_to_what_a_server_runs_at_once() -> None:
    places = await acquire_all(router(server("big", max_running=30), server("small", max_running=10)), 40)
    assert Counter(place.info.name for place in places) == {"big": 30, "small": 10}


async def test_a_trial_stays_with_its_server_while_that_has_room() -> None:
    of = router(server("a"), server("b"))
    mine = await of.acquire()
    of.release(mine)
    assert await of.acquire(mine) is mine


async def test_affinity_ends_where_one_server_would_carry_more_than_its_share() -> None:
    of = router(server("a"), server("b"))
    mine = await of.acquire()
    names = [(await of.acquire(mine)).info.name for _ in range(20)]
    assert 8 <= names.count(mine.info.name) <= 14


async def test_requests_wait_until_there_is_a_server() -> None:
    of = router()
    waiting = asyncio.create_task(of.acquire())
    await settle()
    assert not waiting.done()
    of.replace([server("a")])
    assert (await waiting).info.name == "a"


async def test_an_evaluation_waits_for_a_server_that_holds_its_version() -> None:
    of = router(server("old", version=3))
    waiting = asyncio.create_task(of.acquire(min_version=4))
    await settle()
    assert not waiting.done()
    assert of.newest_version == 3
    of.replace([server("old", version=3), server("new", version=4)])
    assert (await waiting).info.name == "new"


async def test_a_server_that_stays_keeps_its_count_and_learns_its_version() -> None:
    of = router(server("a", version=1))
    place = await of.acquire()
    of.replace([server("a", version=2), server("b", version=2)])
    assert place.info.policy_version == 2
    assert (await of.acquire()).info.name == "b"


async def test_a_server_on_another_port_is_another_server() -> None:
    of = router(server("a"))
    place = await of.acquire()
    of.replace([server("a", url="http://elsewhere")])
    assert (await of.acquire()) is not place


async def test_a_failed_server_is_set_aside_and_comes_back() -> None:
    of = router(server("a"), set_aside_seconds=0.05)
    of.release(await of.acquire(), has_failed=True)
    started = asyncio.get_running_loop().time()
    await of.acquire()
    assert asyncio.get_running_loop().time() - started >= 0.045


async def test_another_server_serves_while_one_is_set_aside() -> None:
    of = router(server("a"), server("b"), set_aside_seconds=60.0)
    failed = await of.acquire()
    of.release(failed, has_failed=True)
    assert all(place is not failed for place in await acquire_all(of, 4))


async def test_failures_in_a_row_set_aside_for_longer_and_those_at_once_count_once() -> None:
    of = router(server("a"), set_aside_seconds=10.0)
    one, two = await acquire_all(of, 2)
    of.release(one, has_failed=True)
    first = one.usable_at
    of.release(two, has_failed=True)
    assert (one.failures, one.usable_at) == (1, first)
    one.usable_at = 0.0
    of.release(await of.acquire(), has_failed=True)
    assert one.usable_at - asyncio.get_running_loop().time() == pytest.approx(15.0, abs=0.5)  # twice 10, bounded


async def test_a_success_forgets_the_failures() -> None:
    of = router(server("a"), set_aside_seconds=0.0)
    of.release(await of.acquire(), has_failed=True)
    place = await of.acquire()
    assert place.failures == 1
    of.release(place)
    assert place.failures == 0
