"""Connections of whoever reaches the port: they take file descriptors, and must take nothing else."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.common.keys import create_keys, load_client_keys, load_server_keys
from lamer.common.liveness.connections import ConnectionGate, allowance
from lamer.common.messages import Role, Status, StatusRequest
from lamer.common.session import Session
from lamer.common.transport import RouterEndpoint
from tests.learner.scripted import TIMEOUT, Actor, Host, Trainer, hello

LIMIT, FLOOD = 256, 320


class Door:
    """What a gate opens and closes."""

    def __init__(self) -> None:
        self.is_open = True
        self.closings = 0

    def pause(self) -> bool:
        self.is_open = False
        self.closings += 1
        return True

    def resume(self) -> None:
        self.is_open = True


def test_newcomers_wait_at_the_bound_and_are_let_in_once_there_is_room() -> None:
    door = Door()
    gate = ConnectionGate(10, door.pause, door.resume)
    for descriptor in range(9):
        gate.accepted(descriptor)
    gate.shook_hands()
    assert (gate.open, gate.half_open, door.is_open) == (9, 8, True)
    gate.accepted(9)
    gate.accepted(10)  # one that the kernel had taken already
    assert (door.is_open, door.closings) == (False, 1)
    for descriptor in (10, 9):
        gate.closed(descriptor)
    assert not door.is_open, "a single one that goes does not open it"
    gate.closed(8)
    assert door.is_open
    gate.closed(8)
    assert gate.open == 8


def test_the_soft_limit_is_raised_and_too_low_a_hard_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    given = allowance()
    assert 3600 < given.most < 4096 - 2 * given.kept - given.backlog
    given.keep_back()
    assert limits[-1] == (4096 - 64 - 100, 4096)
    given.give_all()
    assert limits[-1] == (4096, 4096)
    limits.append((32, 32))
    with pytest.raises(
        Missing, match=r"may open 32 files, and a learner needs \d+ at least: raise .* `ulimit -n 4096`"
    ):
        allowance()
    limits.append((1024, resource.RLIM_INFINITY))
    assert allowance().most > 65_000


def test_a_process_without_descriptors_closes_the_door_whatever_it_has_counted() -> None:
    door = Door()
    gate = ConnectionGate(10, door.pause, door.resume)
    gate.accepted(0)
    gate.exhausted()
    gate.exhausted()
    assert (door.is_open, door.closings) == (False, 1)


async def test_whoever_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    create_keys(tmp_path)
    server = load_server_keys(tmp_path)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits, handshake_seconds=0.2)
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(router.url.rpartition(":")[2]))
            assert await reader.read() is not None, "to the end: its greeting, and no more"
            writer.close()
    finally:
        router.close()


CHILD = """
import asyncio, logging, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from lamer.common.settings import BatchSettings, GatewaySettings
from tests.learner.scripted import make_run

async def main():
    patient = GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=20.0)
    batch = BatchSettings(groups=1, group_size=2, updates=100_000, max_staleness=1)
    run = make_run(Path(sys.argv[1]), gateway=patient, batch=batch)
    run.trainer_keys()
    await run.gateway()

logging.basicConfig(level=logging.INFO)
asyncio.run(main())
"""
ROOT = Path(__file__).parents[3]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


def flood(port: int, count: int) -> list[socket.socket]:
    """So many connections that never say a word; some may have to wait."""
    made = [socket.socket() for _ in range(count)]
    for each in made:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="newcomers can be made to wait on Linux only")
async def test_silent_connections_without_a_key_neither_end_a_run_nor_keep_its_peers_from_work(tmp_path: Path) -> None:
    """At 256 open files, 320 connections ended a learner within seconds: it could open no file any more."""
    log = tmp_path / "gateway.log"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = (sys.executable, "-c", CHILD.format(limit=LIMIT), str(tmp_path))
    with log.open("wb") as output:
        gateway = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=environment)
    address = tmp_path / "run" / "address"
    keys = dict.fromkeys(Role, tmp_path / "keys") | {Role.TRAINER: tmp_path / "run" / "trainer-keys"}

    async def join(role: Role, name: str = "") -> Session:
        return await Session.open(url, load_client_keys(keys[role], role), hello(role, name, 2), TIMEOUT)

    try:
        async with asyncio.timeout(60):
            await until(lambda: address.exists() or gateway.returncode is not None)
            url = address.read_text().strip()
            sessions = [await join(role) for role in (Role.ACTOR, Role.HOST, Role.TRAINER)]
            actor, trainer = Actor(sessions[0]), Trainer(sessions[2], tmp_path / "run")
            working = [asyncio.create_task(part.run()) for part in (actor, Host(sessions[1]), trainer)]
            await until(lambda: trainer.version >= 2)
            silent = flood(int(url.rpartition(":")[2]), FLOOD)
            while "newcomers wait until some are closed" not in log.read_text():
                await asyncio.sleep(0.1)  # the kernel makes newcomers wait as well, if too many come at once
                silent += flood(int(url.rpartition(":")[2]), 10)
            acked, trained = len(actor.acked), trainer.version
            await until(lambda: len(actor.acked) > acked + 20 and trainer.version > trained + 10)
            record = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
            assert len(record) > trained, "lines were written meanwhile"
            for each in silent:
                each.close()
            late = await join(Role.OBSERVER)
            assert (await late.ask(StatusRequest(), Status)).actors == 1
            assert gateway.returncode is None
            for task in working:
                task.cancel()
            await asyncio.gather(*(session.close("enough") for session in (*sessions, late)))
    finally:
        if gateway.returncode is None:
            gateway.kill()
        await gateway.wait()
        print(log.read_text()[-3000:])
