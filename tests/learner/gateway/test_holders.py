"""A lease is its holder's: who else says something of a trial is refused, also after the gateway was started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from lamer.common.codec import encode_trial
from lamer.common.keys import create_client, load_client_keys
from lamer.common.messages import (
    Ack,
    Hello,
    Lease,
    Nack,
    NackKind,
    Role,
    Status,
    StatusRequest,
    TrialDone,
    TrialFailed,
)
from lamer.common.records import Purpose, make_trial_id
from lamer.common.session import Session
from lamer.common.settings import BatchSettings, GatewaySettings
from lamer.learner.gateway.leases import LeaseTable
from tests.learner.gateway.test_gateway import kill, receive, rows
from tests.learner.gateway.test_leases import lease
from tests.learner.scripted import TIMEOUT, Actor, Run, Trainer, hello, make_run, make_trial

PATIENT = GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=20.0, lease_seconds=60.0, slot_retries=1)


def done(granted: Lease) -> TrialDone:
    return TrialDone(granted.trial_id, encode_trial(make_trial(granted)))


@contextlib.asynccontextmanager
async def run_as(run: Run, name: str, capacity: int) -> AsyncIterator[Session]:
    """An actor that is the same process whenever it comes back. One that was killed says no Goodbye."""
    message = msgspec.structs.replace(hello(Role.ACTOR, name, capacity), instance=f"process of {name}")
    session = await Session.open(await run.url(), run.keys(Role.ACTOR), message, TIMEOUT)
    try:
        yield session
    finally:
        await session.close("test is over")


async def test_trials_that_were_never_leased_are_refused_and_nothing_of_them_is_stored(tmp_path: Path) -> None:
    """240 of them were acknowledged once, and 166 stored for training."""
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as actor:
            tasks.create_task(run.host())
            held = await receive(actor, Lease)
            for group_id in range(120):
                for slot in range(2):
                    trial_id = make_trial_id("test-1", Purpose.TRAIN, group_id, slot)
                    if trial_id != held.trial_id:
                        forged = msgspec.structs.replace(held, trial_id=trial_id, group_id=group_id, slot=slot)
                        await actor.send(done(forged))
            for _ in range(239):
                nack = await receive(actor, Nack)
                assert (nack.kind, nack.reason) == (NackKind.INVALID, "this trial was never leased")
            await actor.send(done(held))
            assert (await receive(actor, Ack)).trial_ids == (held.trial_id,)
            run.stop.set()
    assert rows(run, "SELECT trial_id FROM trials") == [(held.trial_id,)]
    assert not (run.plan.run_dir / "quarantine").exists()


async def test_another_actors_failures_and_trials_are_refused_and_harm_nobody(tmp_path: Path) -> None:
    """Failures for others' trials ended a run in seven seconds."""
    run = make_run(tmp_path)
    create_client(run.keys_folder, "insider", Role.ACTOR)
    insiders_keys = load_client_keys(run.keys_folder / "insider", Role.ACTOR)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, "honest", capacity=8) as honest:
            tasks.create_task(run.host())
            leases = [await receive(honest, Lease) for _ in range(8)]
            url = await run.url()
            insider = await Session.open(url, insiders_keys, hello(Role.ACTOR, "insider", 1), TIMEOUT)
            for granted in leases * 20:
                await insider.send(TrialFailed(granted.trial_id, "forged"))
                await insider.send(done(granted))
            for _ in range(2 * 8 * 20):
                assert (await receive(insider, Nack)).kind is NackKind.STALE
            for granted in leases:
                await honest.send(done(granted))
            acked: set[str] = set()
            while len(acked) < len(leases):
                acked |= set((await receive(honest, Ack)).trial_ids)
            await insider.close("enough")
            run.stop.set()
    assert rows(run, "SELECT COUNT(*) FROM drops") == [(0,)]
    assert rows(run, "SELECT COUNT(*) FROM trials") == [(8,)]


async def test_a_trial_leased_anew_is_its_former_holders_no_more_and_a_resend_of_a_stored_one_is_acknowledged(
    tmp_path: Path,
) -> None:
    quick = GatewaySettings(heartbeat_seconds=0.05, dead_after_seconds=0.5, lease_seconds=60.0, slot_retries=50)
    run = make_run(tmp_path, gateway=quick, batch=BatchSettings(groups=1, group_size=1, updates=3, max_staleness=0))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        tasks.create_task(run.host())
        async with run_as(run, "slow", 1) as slow:
            held = await receive(slow, Lease)
            await kill(slow)  # and it is taken for dead
        async with run.session(Role.ACTOR, "other", capacity=1) as other:
            assert (await receive(other, Lease)).trial_id == held.trial_id
            async with run_as(run, "slow", 1) as slow:
                await slow.send(done(held))
                assert (await receive(slow, Nack)).kind is NackKind.STALE
            for _ in range(2):
                await other.send(done(held))
                assert (await receive(other, Ack)).trial_ids == (held.trial_id,)
        run.stop.set()
    assert rows(run, "SELECT trial_id FROM trials") == [(held.trial_id,)]


async def stop_dead(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_restarted_gateway_takes_from_each_actor_what_it_was_playing(tmp_path: Path) -> None:
    run = make_run(tmp_path, gateway=PATIENT)
    async with asyncio.timeout(TIMEOUT):
        gateway, hosting = asyncio.create_task(run.gateway()), asyncio.create_task(run.host())
        async with run_as(run, "one", 4) as one, run_as(run, "two", 4) as two:
            held = {name: [await receive(each, Lease) for _ in range(4)] for name, each in (("one", one), ("two", two))}
            await one.send(done(held["one"][0]))
            await receive(one, Ack)
            await stop_dead(gateway, hosting)
            await asyncio.gather(kill(one), kill(two))
    again = make_run(tmp_path, resume_step=0, gateway=PATIENT)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(again.gateway())
        tasks.create_task(again.host())
        async with run_as(again, "two", 4) as two:  # the first to come back does not get what the other plays
            assert {(await receive(two, Lease)).trial_id for _ in range(4)} == {each.trial_id for each in held["two"]}
            await two.send(done(held["one"][1]))
            assert (await receive(two, Nack)).kind is NackKind.STALE
            async with run_as(again, "one", 4) as one:
                for granted in held["one"]:  # the first is a resend: it was stored before
                    await one.send(done(granted))
                acked: set[str] = set()
                while len(acked) < 4:
                    acked |= set((await receive(one, Ack)).trial_ids)
        assert acked == {granted.trial_id for granted in held["one"]}
        again.stop.set()
    assert rows(again, "SELECT COUNT(*), COUNT(DISTINCT trial_id) FROM trials") == [(4, 4)]


async def test_what_nobody_comes_back_for_is_leased_to_others_and_nobody_is_blamed(tmp_path: Path) -> None:
    run = make_run(tmp_path, gateway=PATIENT)
    async with asyncio.timeout(TIMEOUT):
        gateway, hosting = asyncio.create_task(run.gateway()), asyncio.create_task(run.host())
        async with run_as(run, "gone", 8) as gone:
            held = {(await receive(gone, Lease)).trial_id for _ in range(8)}
            await stop_dead(gateway, hosting)
            await kill(gone)
    again = make_run(tmp_path, resume_step=0, gateway=PATIENT)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(again.gateway())
        tasks.create_task(again.host())
        async with again.session(Role.ACTOR, "new", capacity=8) as new:
            assert {(await receive(new, Lease)).trial_id for _ in range(8)} == held
            again.stop.set()
    assert rows(again, "SELECT COUNT(*) FROM drops") == [(0,)]


async def test_an_actor_gets_no_more_trials_than_the_setting_says_whatever_it_offers(tmp_path: Path) -> None:
    settings = GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=1.0, max_trials_per_actor=3)
    run = make_run(tmp_path, gateway=settings)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        greedy = Hello(1, 1, Role.ACTOR, "greedy", capacity=2**40)
        session = await Session.open(await run.url(), run.keys(Role.ACTOR), greedy, TIMEOUT)
        assert session.welcome.credit_trials == 3
        tasks.create_task(run.host())
        async with run.session(Role.ACTOR, "modest", capacity=5) as modest:
            assert {(await receive(modest, Lease)).slot for _ in range(3)} <= {0, 1}
        async with run.session(Role.OBSERVER) as observer:
            await until_in_flight(observer, 3)
        await session.close("enough")
        run.stop.set()


async def until_in_flight(observer: Session, count: int) -> None:
    while (await observer.ask(StatusRequest(), Status)).in_flight != count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_key_that_only_beats_loses_its_leases_and_the_run_goes_on_with_others(tmp_path: Path) -> None:
    settings = GatewaySettings(heartbeat_seconds=0.05, dead_after_seconds=20.0, lease_seconds=0.5, slot_retries=50)
    run = make_run(tmp_path, gateway=settings)
    create_client(run.keys_folder, "idle", Role.ACTOR)
    idle_keys = load_client_keys(run.keys_folder / "idle", Role.ACTOR)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.OBSERVER) as observer:
            idler = await Session.open(await run.url(), idle_keys, hello(Role.ACTOR, "idle", 100), TIMEOUT)
            tasks.create_task(run.host())
            await until_in_flight(observer, 8)  # it has them all
        try:
            async with run.session(Role.TRAINER) as t, run.session(Role.ACTOR, "honest", capacity=4) as a:
                training, acting = Trainer(t, run.plan.run_dir).run(), Actor(a).run()
                assert await asyncio.gather(training, acting) == [0, 0], "trained to the end"
        finally:
            await idler.close("told to")


async def test_a_key_that_fails_all_that_it_gets_ends_no_run_in_which_others_work(tmp_path: Path) -> None:
    """Groups are dropped whose slots failed too often, and a run that drops too many in a row ends."""
    run = make_run(tmp_path, batch=BatchSettings(groups=2, group_size=2, updates=20, max_staleness=1))
    create_client(run.keys_folder, "insider", Role.ACTOR)
    insiders = load_client_keys(run.keys_folder / "insider", Role.ACTOR)

    async def fail_all(session: Session) -> None:
        while True:
            granted = await receive(session, Lease)
            await session.send(TrialFailed(granted.trial_id, "on purpose"))

    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        insider = await Session.open(await run.url(), insiders, hello(Role.ACTOR, "insider", 4096), TIMEOUT)
        failing = asyncio.create_task(fail_all(insider))
        try:
            async with run.session(Role.TRAINER) as t, run.session(Role.ACTOR, "honest", capacity=4) as a:
                tasks.create_task(run.host())
                training, acting = Trainer(t, run.plan.run_dir).run(), Actor(a).run()
                assert await asyncio.gather(training, acting) == [0, 0], "trained to the end"
        finally:
            failing.cancel()
            await insider.close("told to")
    assert sum(drop.value for drop in (await gateway).drops) <= 4


def test_the_last_holder_of_a_trial_stays_its_holder_after_the_lease_has_ended() -> None:
    table = LeaseTable()
    table.grant(lease(0), "a", now=0.0)
    table.expire(100.0)
    assert table.holder(lease(0).trial_id) == "a"
    table.grant(lease(0), "b", now=100.0)
    assert table.holder(lease(0).trial_id) == "b"
    assert table.holder(lease(1).trial_id) is None


def test_a_restored_lease_waits_a_short_time_and_runs_fully_once_its_holder_is_back() -> None:
    table = LeaseTable()
    for group_id, holder in enumerate("ab"):
        table.grant_again(lease(group_id), holder, now=0.0, seconds=1.0)
    table.renew("a", now=0.5)
    assert [granted.lease for granted in table.expire(5.0)] == [lease(1)]
    assert [granted.lease for granted in table.expire(10.5)] == [lease(0)]
