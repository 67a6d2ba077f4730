"""Which server gets a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

import pytest

from lamer.actors.routing import Affinity, Place, Router
from lamer.common.messages import ServerInfo


def server(
    name: str,
    version: int = 0,
    max_running: int = 8,
    url: str = "",
    running: int = 0,
    waiting: int = 0,
    report: int = 0,
) -> ServerInfo:
    return ServerInfo(name, url or f"http://{name}", "", version, max_running, running, waiting, report)


def router(*servers: ServerInfo, set_aside_seconds: float = 1.0) -> Router:
    made = Router(set_aside_seconds)
    made.replace(servers)
    return made


def groups(count: int) -> list[Affinity]:
    return [Affinity(f"train/{group}") for group in range(count)]


async def acquire_all(of: Router, affinities: Sequence[Affinity]) -> list[Place]:
    return [await of.acquire(affinity) for affinity in affinities]


def shares(places: Sequence[Place]) -> Counter[str]:
    return Counter(place.info.name for place in places)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def succeed(of: Router, affinity: Affinity) -> Place:
    place = await of.acquire(affinity)
    of.release(place, has_answered=True)
    return place


async def test_the_trials_of_a_group_go_to_one_server_in_every_process() -> None:
    servers = [server(name) for name in "abc"]
    for group in range(20):
        names = {(await succeed(router(*servers), Affinity(f"train/{group}"))).info.name for _ in range(3)}
        assert len(names) == 1


async def test_groups_are_spread_by_what_servers_run_at_once() -> None:
    of = router(server("big", max_running=300), server("small", max_running=100))
    names = shares([await succeed(of, affinity) for affinity in groups(400)])
    assert 250 <= names["big"] <= 350


async def test_no_server_carries_more_than_its_share_and_a_quarter() -> None:
    of = router(server("a", max_running=100), server("b", max_running=100))
    places = await acquire_all(of, [Affinity("train/1") for _ in range(80)])
    assert sorted(shares(places).values()) == [30, 50]


async def test_a_trial_stays_with_its_server_while_that_has_room() -> None:
    of = router(*(server(name, max_running=50) for name in "ab"))
    crowd = await acquire_all(of, [Affinity("train/1") for _ in range(40)])
    pushed_away = next(place for place in crowd if shares(crowd)[place.info.name] == 15)
    mine = Affinity("train/1", last=pushed_away, arrivals=of._arrivals)
    for place in crowd:
        of.release(place, has_answered=True)
    assert await of.acquire(mine) is pushed_away
    assert await of.acquire(Affinity("train/1")) is not pushed_away


async def test_a_new_server_takes_its_share_at_once_from_trials_that_are_under_way() -> None:
    servers = [server("a", max_running=64), server("b", max_running=64)]
    of = router(*servers)
    trials = groups(90)
    for place in await acquire_all(of, trials):
        of.release(place, has_answered=True)
    of.replace([*servers, server("new", max_running=64)])
    names = shares(await acquire_all(of, trials))
    assert 20 <= names["new"] <= 38
    stayed = sum(trial.last is not None and trial.last.info.name != "new" for trial in trials)
    assert stayed >= 50


async def test_random_routing_spreads_a_group_over_all_servers() -> None:
    of = Router(is_random=True)
    of.replace([server("a", max_running=200), server("b", max_running=200)])
    one = Affinity("train/1")
    names = shares([await of.acquire(one) for _ in range(200)])
    assert min(names.values()) >= 60


async def test_requests_wait_in_order_until_there_is_a_server() -> None:
    of = router()
    waiting = [asyncio.create_task(of.acquire(Affinity())) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    of.replace([server("a", max_running=2)])
    await settle()
    assert [task.done() for task in waiting] == [True, True, False]
    of.release(waiting[0].result(), has_answered=True)
    assert (await waiting[2]).info.name == "a"


async def test_all_capacity_is_used_however_groups_fall() -> None:
    of = router(server("a", max_running=3), server("b", max_running=50), server("c", max_running=7))
    places = await acquire_all(of, [Affinity("train/1") for _ in range(60)])
    assert shares(places) == {"a": 3, "b": 50, "c": 7}


async def test_one_who_stops_waiting_keeps_no_place() -> None:
    of = router(server("a", max_running=1))
    place = await of.acquire(Affinity())
    leaving, staying = (asyncio.create_task(of.acquire(Affinity())) for _ in range(2))
    await settle()
    of.release(place, has_answered=True)  # given to `leaving`, which is cancelled before it runs again
    leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    assert (await asyncio.wait_for(staying, 5.0)).in_flight == 1


async def test_an_evaluation_waits_for_a_server_that_holds_exactly_its_version() -> None:
    of = router(server("old", version=3), server("ahead", version=5))
    waiting = asyncio.create_task(of.acquire(Affinity(version=4)))
    await settle()
    assert not waiting.done()
    assert (await of.acquire(Affinity())).info.name in ("old", "ahead")  # it holds nobody up
    of.replace([server("old", version=4), server("ahead", version=5)])
    assert (await waiting).info.name == "old"


async def test_a_server_that_lags_behind_is_not_used_for_a_later_group_unless_all_do() -> None:
    of = router(server("slow", version=3, max_running=4), server("fast", version=5, max_running=4))
    places = await acquire_all(of, [Affinity(f"train/{group}", min_version=5) for group in range(4)])
    assert shares(places) == {"fast": 4}
    waiting = asyncio.create_task(of.acquire(Affinity("train/4", min_version=5)))
    await settle()
    assert not waiting.done()
    assert (await of.acquire(Affinity("train/5", min_version=3))).info.name == "slow"
    of.replace([server("slow", version=3, max_running=4), server("fast", version=2, max_running=4)])  # all went back
    assert (await waiting).info.name == "slow"


async def test_a_server_that_stays_keeps_its_count_and_learns_its_version() -> None:
    of = router(server("a", version=1, max_running=2))
    place = await of.acquire(Affinity())
    of.replace([server("a", version=2, max_running=2), server("b", version=2, max_running=2)])
    assert place.info.policy_version == 2
    assert shares(await acquire_all(of, groups(3))) == {"a": 1, "b": 2}


async def test_a_server_on_another_port_is_another_server() -> None:
    of = router(server("a"))
    place = await of.acquire(Affinity())
    of.replace([server("a", url="http://elsewhere")])
    assert (await of.acquire(Affinity())) is not place


async def test_requests_at_a_server_that_is_gone_end_unless_it_returns_in_time() -> None:
    of = Router(grace_seconds=0.1)
    of.replace([server("a"), server("b")])
    places = {place.info.name: place for place in await acquire_all(of, groups(8))}

    async def ask(place: Place, gate: asyncio.Event) -> None:
        async with place.sending():
            await gate.wait()

    gate = asyncio.Event()
    lost, found = (asyncio.create_task(ask(places[name], gate)) for name in "ab")
    await settle()
    of.replace([])
    await asyncio.sleep(0.02)
    of.replace([server("b")])
    with pytest.raises(TimeoutError):
        await lost
    await asyncio.sleep(0.1)
    assert not found.done()
    gate.set()
    await found


async def test_a_failed_server_is_set_aside_and_comes_back_for_whoever_waits() -> None:
    of = router(server("a"), set_aside_seconds=0.05)
    of.release(await of.acquire(Affinity()), has_failed=True)
    started = asyncio.get_running_loop().time()
    await asyncio.wait_for(of.acquire(Affinity()), 5.0)
    assert asyncio.get_running_loop().time() - started >= 0.045


async def test_a_server_comes_back_with_one_probe_and_grows_with_every_success() -> None:
    of = router(server("a", max_running=8), set_aside_seconds=0.0)
    of.release(await of.acquire(Affinity()), has_failed=True)
    probe = await of.acquire(Affinity())
    second = asyncio.create_task(of.acquire(Affinity()))
    await settle()
    assert not second.done()
    of.release(probe, has_answered=True)
    await second
    assert probe.limit.value == 2
    for _ in range(5):
        of.release(await of.acquire(Affinity()), has_answered=True)
    assert probe.limit.value == 4  # half of what it was


async def test_another_server_serves_while_one_is_set_aside() -> None:
    of = router(server("a"), server("b"), set_aside_seconds=60.0)
    failed = await of.acquire(Affinity())
    of.release(failed, has_failed=True)
    assert all(place is not failed for place in await acquire_all(of, groups(4)))


async def test_failures_in_a_row_set_aside_for_longer_and_those_at_once_count_once() -> None:
    of = router(server("a"), set_aside_seconds=10.0)
    one, two = await acquire_all(of, groups(2))
    of.release(one, has_failed=True)
    first = one.usable_at
    of.release(two, has_failed=True)
    assert (one.failures, one.usable_at) == (1, first)
    one.usable_at = 0.0
    of.release(await of.acquire(Affinity()), has_failed=True)
    assert one.usable_at - asyncio.get_running_loop().time() == pytest.approx(15.0, abs=0.5)  # twice 10, bounded


async def test_a_success_forgets_the_failures() -> None:
    of = router(server("a"), set_aside_seconds=0.0)
    of.release(await of.acquire(Affinity()), has_failed=True)
    place = await of.acquire(Affinity())
    assert place.failures == 1
    of.release(place, has_answered=True)
    assert place.failures == 0


async def test_a_refused_request_says_nothing_of_the_server() -> None:
    of = router(server("a"), set_aside_seconds=0.0)
    of.release(await of.acquire(Affinity()), has_failed=True)
    place = await of.acquire(Affinity())
    of.release(place)
    assert (place.failures, place.limit.value) == (1, 1)
