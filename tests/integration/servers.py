"""A run over two servers of which one is killed, and a third that joins late; requests are counted at their sender."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lamer.actors import worker
from lamer.actors.routing import Affinity, Place, Router
from lamer.actors.worker import ActorOptions, run_actor
from lamer.common.keys import load_client_keys
from lamer.common.messages import Role, ServerInfo
from tests.integration.processes import TINY, Started, last_step, wait_until
from tests.integration.test_by_hand import free_port
from tests.integration.test_kills import check_journal

PROCESSES = {"sglang": "sglang_guard/start.py", "embedded": "lamer.deploy.inference.embedded"}
"""How an argument of a server's command line ends."""
LONGEST_SECONDS = 400.0
SHARE_SECONDS = 10.0


class WatchedRouter(Router):
    """Keeps when each server was listed, at which version, and who was sent each request."""

    def __init__(self, is_random: bool) -> None:
        super().__init__(is_random=is_random)
        self.servers: dict[str, ServerInfo] = {}
        self.since: dict[str, float] = {}
        self.sent: list[tuple[float, str]] = []

    def replace(self, servers: Sequence[ServerInfo]) -> None:
        self.servers = {server.name: server for server in servers}
        kept = {name: since for name, since in self.since.items() if name in self.servers}
        self.since = {name: time.monotonic() for name in self.servers} | kept
        super().replace(servers)

    async def acquire(self, affinity: Affinity) -> Place:
        place = await super().acquire(affinity)
        self.sent.append((time.monotonic(), place.info.name))
        return place

    def shares(self, begin: float, end: float) -> dict[str, float]:
        """The part of the requests from `begin` to `end` that each server was sent."""
        sent = Counter(name for when, name in self.sent if begin <= when < end)
        return {name: round(count / sent.total(), 3) for name, count in sent.items()}


class Run:
    """A run by hand whose actor lives in this process, so that its requests can be counted."""

    def __init__(self, folder: Path, lamer: Callable[..., Started], router: WatchedRouter, engine: str) -> None:
        self._lamer = lamer
        self._engine = engine
        self._keys = folder / f"keys-of-two-{engine}"
        self._url = f"tcp://127.0.0.1:{free_port()}"
        self.router = router
        self.folder = folder / "runs" / f"two-{engine}"
        assert lamer("keys", "create", str(self._keys)).wait() == 0
        options = (
            "--name",
            self.folder.name,
            "--plain",
            "--keys",
            str(self._keys),
            "--port",
            self._url.rpartition(":")[2],
        )
        self.learner = lamer("learner", "-c", str(TINY), *options, "batch.updates=100000", "evaluation.tasks=0")
        self.hosts: dict[str, Started] = {}

    def _serve(self, name: str) -> Started:
        joins = ("--connect", self._url, "--keys", str(self._keys), "--name", name)
        return self._lamer("serve", *joins, "--engine", self._engine)

    async def play(self) -> int:
        """Be an actor until the learner says Shutdown."""
        return await run_actor(ActorOptions(self._url, load_client_keys(self._keys, Role.ACTOR), "actor", 24))

    async def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait for a fact; fails when a process ends before."""

        def text() -> str:
            return self.learner.text + "".join(host.text for host in self.hosts.values())

        def is_so() -> bool:
            assert all(part.process.poll() is None for part in (self.learner, *self.hosts.values())), text()
            return what()

        await asyncio.to_thread(wait_until, is_so, text, LONGEST_SECONDS)

    async def wait_for_updates(self, count: int) -> None:
        step = last_step(self.folder) + count
        await self.wait_for(lambda: last_step(self.folder) >= step)

    async def kill_server_of(self, name: str) -> None:
        """SIGKILL to the server itself; its host lives on."""
        ending = PROCESSES[self._engine]
        servers = (
            each for each in self.hosts[name].descendants() if any(part.endswith(ending) for part in each.cmdline())
        )
        next(servers).kill()
        await self.wait_for(lambda: name not in self.router.servers)

    async def add(self, name: str) -> None:
        """Start a host, and wait until its server may be used."""
        self.hosts[name] = self._serve(name)
        await self.wait_for(lambda: name in self.router.servers)


async def kill_one_and_add_a_third(
    folder: Path, lamer: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """A killed server comes back with the current version, a third takes its share in time, and no trial is lost."""
    router = WatchedRouter(is_random=False)
    monkeypatch.setattr(worker, "Router", lambda is_random: router)
    run = Run(folder, lamer, router, engine)
    await run.wait_for((run.folder / "address").exists)
    actor = asyncio.create_task(run.play())
    try:
        await run.add("one")
        await run.add("two")
        await run.wait_for_updates(3)
        await run.kill_server_of("one")
        killed = time.monotonic()
        at_kill = last_step(run.folder)
        await run.wait_for_updates(3)  # the other goes on alone
        await run.wait_for(lambda: "one" in router.servers)
        assert router.servers["one"].policy_version >= at_kill - 1
        print(f"\nback after {router.since['one'] - killed:.1f} s at version {router.servers['one'].policy_version}")
        await asyncio.sleep(SHARE_SECONDS)
        back = router.shares(router.since["one"], router.since["one"] + SHARE_SECONDS)
        await run.add("three")
        await asyncio.sleep(SHARE_SECONDS)
        third = router.shares(router.since["three"], router.since["three"] + SHARE_SECONDS)
        before = router.shares(router.since["three"] - SHARE_SECONDS, router.since["three"])
        print(
            f"requests within {SHARE_SECONDS:g} s: of a return {back}, before the third {before}, of the third {third}"
        )
        assert back["one"] >= 0.5 / 2
        assert third["three"] >= 0.5 / 3
        await run.wait_for_updates(2)
        await asyncio.to_thread(run.learner.interrupt)
        assert await asyncio.wait_for(actor, 60.0) == 130
        assert await asyncio.to_thread(run.learner.wait, 60.0) == 130, run.learner.text
        assert f"Go on from update {last_step(run.folder)} with: lamer learner --config" in run.learner.text
    finally:
        actor.cancel()
        await asyncio.wait({actor})
    check_journal(run.folder)
