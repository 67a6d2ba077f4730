"""Several real SGLang servers under one run: shared prefixes, a server that is killed, one that joins late."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from actors import worker
from actors.routing import Affinity, Place, Router
from actors.worker import ActorOptions, run_actor
from common.keys import load_client_keys
from common.messages import ServerInfo
from tests.integration.processes import TINY, Started, last_step, updates, wait_until
from tests.integration.test_by_hand import free_port
from tests.integration.test_kills import check_journal

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(900)]
LONGEST_SECONDS = 400.0
SHARE_SECONDS = 10.0

TWO_SERVERS = (
    *("inference.engine=sglang", "inference.servers=2", "inference.max_running=32", "actor.trials=64"),
    *("batch.groups=4", "batch.group_size=8", "batch.updates=3", "model.warmstart.steps=40"),
    *("model.warmstart.trials=100", "evaluation.tasks=0", "tracking.mlflow=false", "trainer.parity_responses=0"),
)
"""Sokoban, small: its first room and earlier attempts return turn after turn, the same for all trials of a group."""


def test_affinity_finds_more_of_its_prompts_cached_than_random_routing(
    folder: Path, lamer: Callable[..., Started]
) -> None:
    rates = {}
    for routing in ("affinity", "random"):
        options = ("-c", "sokoban.yaml", "--name", f"prefixes-{routing}", "--plain", f"inference.routing={routing}")
        process = lamer("train", *options, *TWO_SERVERS)
        assert process.wait(LONGEST_SECONDS) == 0, process.text
        lines = updates(folder / "runs" / f"prefixes-{routing}")
        rates[routing] = statistics.fmean(line.metrics["rollout/prefix_hit_rate"] for line in lines)
    print(f"\nprefix-cache hit rate: {rates}")
    assert rates["affinity"] > rates["random"] + 0.02


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

    def __init__(self, folder: Path, lamer: Callable[..., Started], router: WatchedRouter) -> None:
        self._lamer = lamer
        self._keys = folder / "keys-of-two"
        self._url = f"tcp://127.0.0.1:{free_port()}"
        self.router = router
        self.folder = folder / "runs" / "two"
        assert lamer("keys", "create", str(self._keys)).wait() == 0
        options = ("--name", "two", "--plain", "--keys", str(self._keys), "--port", self._url.rpartition(":")[2])
        self.learner = lamer("learner", "-c", str(TINY), *options, "batch.updates=100000", "evaluation.tasks=0")
        self.hosts = {name: self._serve(name) for name in ("one", "two")}

    def _serve(self, name: str) -> Started:
        joins = ("--connect", self._url, "--keys", str(self._keys), "--name", name)
        return self._lamer("serve", *joins, "--engine", "sglang")

    async def play(self) -> int:
        """Be an actor until the learner says Shutdown."""
        return await run_actor(ActorOptions(self._url, load_client_keys(self._keys), "actor", 24))

    async def wait_for(self, what: Callable[[], bool]) -> None:
        def text() -> str:
            return self.learner.text + "".join(host.text for host in self.hosts.values())

        await asyncio.to_thread(wait_until, what, text, LONGEST_SECONDS)

    async def wait_for_updates(self, count: int) -> None:
        step = last_step(self.folder) + count
        await self.wait_for(lambda: last_step(self.folder) >= step)

    async def wait_for_servers(self, *names: str) -> None:
        await self.wait_for(lambda: set(self.router.servers) == set(names))

    async def kill_server_of(self, name: str) -> None:
        """SIGKILL to the server itself; its host lives on."""
        self.hosts[name].part("sglang.launch_server").kill()
        await self.wait_for(lambda: name not in self.router.servers)

    async def add(self, name: str) -> None:
        self.hosts[name] = self._serve(name)
        await self.wait_for(lambda: name in self.router.servers)


async def test_a_killed_server_comes_back_and_a_third_takes_its_share(
    folder: Path, lamer: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    router = WatchedRouter(is_random=False)
    monkeypatch.setattr(worker, "Router", lambda is_random: router)
    run = Run(folder, lamer, router)
    actor = asyncio.create_task(run.play())
    try:
        await run.wait_for_servers("one", "two")
        await run.wait_for_updates(3)
        await run.kill_server_of("one")
        killed = time.monotonic()
        at_kill = last_step(run.folder)
        await run.wait_for_updates(3)  # the other goes on alone
        await run.wait_for_servers("one", "two")
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
    finally:
        actor.cancel()
        await asyncio.wait({actor})
    check_journal(run.folder)
    assert "inference_error" not in caplog.text
