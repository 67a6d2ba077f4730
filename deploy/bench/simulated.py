"""A simulated server as a process of the rollout benchmark, and its saturated throughput.

All durations come from the server's own virtual clock (`PacedInfo.seconds`), read before and after what is measured, so
that they are simulated seconds whatever the time scale.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from lamer.actors.inference import InferenceClient, InferenceOptions
from lamer.actors.policy import Request, RequestKind
from lamer.common.messages import ServerInfo
from lamer.deploy.bench.scripted import PROMPT_WORDS, VOCABULARY
from lamer.deploy.bench.wire import PacedInfo
from lamer.deploy.inference.engines.client import ServerClient
from lamer.deploy.inference.engines.launch import free_port
from lamer.deploy.run.processes import end_all, start

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 5.0
REQUEST_SECONDS = 600.0
RETRIES = 3
WARM_UP_SECONDS = 20.0
SATURATED_SECONDS = 60.0
OVERSUBSCRIPTION = 1.25


@dataclass(frozen=True, slots=True)
class Throughput:
    """What the server did between two readings. seconds, busy_seconds: simulated. cpu_seconds: of its process."""

    seconds: float
    tokens: int
    busy_seconds: float
    cpu_seconds: float

    @classmethod
    def between(cls, before: PacedInfo, after: PacedInfo) -> Throughput:
        """From one reading to a later one."""
        return cls(
            seconds=after.seconds - before.seconds,
            tokens=after.tokens - before.tokens,
            busy_seconds=after.busy_seconds - before.busy_seconds,
            cpu_seconds=after.cpu_seconds - before.cpu_seconds,
        )

    @property
    def tokens_per_second(self) -> float:
        """Response tokens a simulated second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class SimulatedServer:
    """A running paced server. client: for its administrative routes; info: how actors reach it."""

    process: Process
    client: ServerClient
    info: ServerInfo
    time_scale: float
    http: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def run(
        cls, model_path: Path, seed: int, time_scale: float, max_running: int
    ) -> AsyncIterator[SimulatedServer]:
        """Start a server and end it.

        Raises:
            Missing: it does not answer.
        """
        port, api_key, admin_key = free_port(HOST), secrets.token_hex(16), secrets.token_hex(16)
        process = await start(
            (
                *(sys.executable, "-P", "-m", "lamer.deploy.bench.paced", "--host", HOST, "--port", str(port)),
                *("--time-scale", str(time_scale), "--api-key", api_key, "--admin-api-key", admin_key),
                *("--model-path", str(model_path), "--vocabulary", str(VOCABULARY), "--seed", str(seed)),
                *("--max-running-requests", str(max_running)),
            )
        )
        url = f"http://{HOST}:{port}"
        client = ServerClient(url, api_key, admin_key)
        try:
            await client.wait_ready(START_SECONDS)
            info = ServerInfo("simulated", url, api_key, policy_version=0, max_running=max_running)
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as http:
                yield cls(process, client, info, time_scale, http)
        finally:
            await client.close()
            await end_all([process], STOP_SECONDS)

    async def read(self) -> PacedInfo:
        """The server's counters at this moment."""
        async with self.http.get(f"{self.info.url}/server_info") as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=PacedInfo)

    def inference(self) -> InferenceClient:
        """A client as actors have it."""
        return InferenceClient(InferenceOptions(REQUEST_SECONDS, RETRIES), VOCABULARY)


async def measure_saturation(server: SimulatedServer) -> Throughput:
    """The server's throughput while `max_running` sequences run all the time and more wait."""
    prompt = np.full(PROMPT_WORDS, 2, dtype=np.int32)

    async def keep_asking(inference: InferenceClient, index: int) -> None:
        ordinal = 0
        while True:
            seed = index * 1_000_000 + ordinal
            request = Request(prompt, 1024, (), 1.0, 1.0, 0, seed, RequestKind.PLAY)
            await inference.generate(server.info, request)
            ordinal += 1

    async with server.inference() as inference, asyncio.TaskGroup() as group:
        clients = int(server.info.max_running * OVERSUBSCRIPTION)
        asking = [group.create_task(keep_asking(inference, index)) for index in range(clients)]
        await asyncio.sleep(WARM_UP_SECONDS / server.time_scale)
        before = await server.read()
        await asyncio.sleep(SATURATED_SECONDS / server.time_scale)
        after = await server.read()
        for task in asking:
            task.cancel()
    return Throughput.between(before, after)


def process_cpu_seconds(pid: int) -> float:
    """CPU seconds that a live child has used; 0 where the system has no /proc."""
    path = Path(f"/proc/{pid}/stat")
    if not path.is_file():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
