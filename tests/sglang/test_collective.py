"""Weights by broadcast into the real SGLang: the weights themselves, hosts that come and go, and a training run."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lamer.common.messages import GroupJoin, GroupState, Published, Role, ServerInfo, Servers
from lamer.common.session import Session
from lamer.common.settings import GatewaySettings, InferenceSettings
from lamer.common.weights import weight_files
from lamer.deploy.inference.engines.launch import Launcher
from lamer.deploy.inference.engines.options import EngineOptions
from lamer.learner.trainer.broadcast.broadcaster import Broadcaster
from lamer.learner.trainer.broadcast.rank_zero import group_address
from tests.contract.served import VOCABULARY, Served, write_models
from tests.integration.processes import Started, start, updates
from tests.learner.scripted import Run, make_run

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600)]

SECONDS = 200.0
PROMPTS, TOKENS = 50, 8
INFERENCE = InferenceSettings(
    engine="sglang", delivery="gloo", dtype="bfloat16", bucket_bytes=8192, max_running=8, cache_tokens=8192
)


@dataclass
class Scene:
    """A gateway, the trainer's end of broadcasts without a trainer, and an actor that only hears of servers."""

    folder: Path
    run: Run
    trainer: Session
    actor: Session
    broadcaster: Broadcaster
    servers: tuple[ServerInfo, ...] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    hosts: list[Started] = field(default_factory=list)

    async def follow_trainer(self) -> None:
        while True:
            message = await self.trainer.receive()
            if isinstance(message, GroupJoin | GroupState):
                self.broadcaster.take(message)

    async def follow_actor(self) -> None:
        while True:
            message = await self.actor.receive()
            if isinstance(message, Servers):
                self.servers = message.servers

    async def until(self, fact: Callable[[], bool]) -> None:
        """Poll what other processes bring about."""
        async with asyncio.timeout(SECONDS):
            while not fact():  # noqa: ASYNC110 - other processes bring it about
                await asyncio.sleep(0.05)

    async def publish(self, version: int) -> Path:
        """Weights that differ in every tensor, as policy version `version`."""
        target = self.run.plan.run_dir / "weights" / f"v{version}"
        shutil.copytree(self.folder / "model", target)
        generator = torch.Generator().manual_seed(version)
        tensors = {
            name: (tensor + 0.05 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
            for name, tensor in load_file(target / "model.safetensors").items()
        }
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        files = weight_files(target)
        await self.trainer.send(Published(version, str(target), files))
        await self.broadcaster.offer(version, target, files)
        return target

    async def start_host(self, name: str) -> Started:
        """`lamer serve`, once its server is ready and in the group with those before it."""
        arguments = ("serve", "--connect", await self.run.url(), "--keys", str(self.run.keys_folder), "--name", name)
        self.hosts.append(start(arguments, self.folder, name))
        count = sum(host.process.poll() is None for host in self.hosts)
        await self.until(lambda: len(self.servers) == count and len(self.broadcaster.members) == count)
        return self.hosts[-1]

    def hold(self, version: int) -> bool:
        """Whether every server was verified to hold `version`."""
        return bool(self.servers) and all(server.policy_version == version for server in self.servers)


def logprobs(url: str, api_key: str) -> np.ndarray:
    """Of greedy responses, one request at a time, float64 [PROMPTS, TOKENS]; no two prompts share a prefix."""
    server = Served(url, {}, api_key)
    generator = np.random.default_rng(5)
    rows = []
    for number in range(PROMPTS):
        prompt = [10 + number, *map(int, generator.integers(10, VOCABULARY, 20))]
        reply = server.generate(prompt, TOKENS)
        rows.append([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]])
    return np.array(rows)


@contextlib.asynccontextmanager
async def scene_in(folder: Path) -> AsyncIterator[Scene]:
    run = make_run(folder, inference=INFERENCE, gateway=GatewaySettings(heartbeat_seconds=0.5, dead_after_seconds=10.0))
    shutil.rmtree(folder / "model")
    shutil.copytree(write_models(folder / "written")["base"], folder / "model")
    gateway = asyncio.create_task(run.gateway())
    async with run.session(Role.TRAINER) as trainer, run.session(Role.ACTOR, capacity=1) as actor:
        broadcaster = Broadcaster(INFERENCE, group_address("", run.plan.settings.gateway.bind), trainer.send)
        scene = Scene(folder, run, trainer, actor, broadcaster)
        tasks = [
            asyncio.create_task(work) for work in (scene.follow_trainer(), scene.follow_actor(), broadcaster.run())
        ]
        try:
            yield scene
        finally:
            for task in tasks:
                task.cancel()
            for host in scene.hosts:
                host.end()
            await broadcaster.close()
    run.stop.set()
    await gateway


def kill(host: Started) -> None:
    """The host and its server, at once and without a word."""
    for process in [psutil.Process(host.process.pid), *host.descendants()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    host.process.wait()


async def test_broadcast_weights_are_those_on_disk_whoever_comes_and_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scene_in(tmp_path) as scene:
        first = await scene.start_host("a")
        await scene.publish(1)
        await scene.until(lambda: scene.hold(1) and scene.broadcaster.applied == 1)

        await scene.start_host("b")  # the group is formed anew, of both
        await scene.until(lambda: len(scene.broadcaster.members) == 2)
        await scene.publish(2)
        await scene.until(lambda: scene.hold(2) and scene.broadcaster.applied == 2)

        kill(first)
        await scene.publish(3)  # by folder, if the trainer has not noticed yet
        await scene.until(lambda: len(scene.servers) == 1 and scene.hold(3))
        await scene.until(lambda: len(scene.broadcaster.members) == 1)
        folder = await scene.publish(4)
        await scene.until(lambda: scene.hold(4) and scene.broadcaster.applied == 4)

        (server,) = scene.servers
        got = await asyncio.to_thread(logprobs, server.url, server.api_key)
        fresh = await Launcher(EngineOptions("sglang", "127.0.0.1", 0, 8, 8192, dtype="bfloat16")).open(folder, 4)
        try:
            expected = await asyncio.to_thread(logprobs, fresh.url, fresh.api_key)
        finally:
            await fresh.stop()
        with capsys.disabled():
            print(
                f"\n{got.size} greedy logprobs after a broadcast differ by at most {np.abs(got - expected).max():.1e}"
            )
        assert np.abs(got - expected).max() <= 1e-3


def test_a_run_takes_its_updates_by_broadcast_while_it_generates(train: Callable[..., Started], folder: Path) -> None:
    inference = ("inference.engine=sglang", "inference.delivery=gloo", "inference.bucket_bytes=20000")
    process = train("gloo", "batch.updates=12", *inference)
    assert process.wait(400.0) == 0, process.text
    lines = updates(folder / "runs" / "gloo")
    assert [line.step for line in lines] == list(range(1, 13))
    assert max(line.metrics["staleness/max"] for line in lines) > 0  # it generated while the trainer trained
    gaps = [line.metrics["engine/logprob_gap_max"] for line in lines if "engine/logprob_gap_max" in line.metrics]
    assert max(gaps) <= 1e-4
    seconds = [line.metrics["weights/download_seconds"] for line in lines]
    assert min(seconds) == 0.0  # what comes as a folder takes time to fetch
    assert seconds[6:] == [0.0] * 6, "the group is formed while the first updates go by as folders"
