"""An actor's limit of requests on a simulated server: it keeps the server's queue short and the server busy."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from lamer.actors.inference import InferenceClient, RoutedPolicy
from lamer.actors.policy import Request, RequestKind
from lamer.actors.routing import Router
from lamer.deploy.bench.scripted import PROMPT_WORDS, write_model_folder
from lamer.deploy.bench.simulated import SimulatedServer, Throughput, measure_saturation

CAPACITY = 32
TRIALS = 3 * CAPACITY
TIME_SCALE = 20.0
REPORT_SECONDS, WARM_UP_REPORTS, MEASURED_REPORTS = 2.0 / TIME_SCALE, 20, 40


async def play(client: InferenceClient, router: Router, trial: int) -> None:
    for ordinal in itertools.count():
        prompt = np.full(PROMPT_WORDS, 2, dtype=np.int32)
        request = Request(prompt, 1024, (), 1.0, 1.0, 0, trial * 1_000_000 + ordinal, RequestKind.PLAY)
        await RoutedPolicy(client, router).complete(request)


async def report(server: SimulatedServer, router: Router, count: int, ordinals: Iterator[int]) -> list[int]:
    """Tell the router the server's load again and again, as hosts and the gateway do; the queue each time."""
    queues = []
    for _ in range(count):
        await asyncio.sleep(REPORT_SECONDS)
        load = await server.client.loads()
        queues.append(load.num_waiting_reqs)
        running, waiting = load.num_running_reqs, load.num_waiting_reqs
        router.replace([msgspec.structs.replace(server.info, running=running, waiting=waiting, report=next(ordinals))])
    return queues


async def test_a_limit_costs_no_throughput_and_keeps_the_queue_short(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model")
    async with SimulatedServer.run(tmp_path / "model", 0, TIME_SCALE, CAPACITY) as server:
        saturation = (await measure_saturation(server)).tokens_per_second
        router, ordinals = Router(), itertools.count(1)
        router.replace([server.info])
        async with server.inference() as client, asyncio.TaskGroup() as group:
            playing = [group.create_task(play(client, router, trial)) for trial in range(TRIALS)]
            await report(server, router, WARM_UP_REPORTS, ordinals)
            before = await server.read()
            queues = await report(server, router, MEASURED_REPORTS, ordinals)
            after = await server.read()
            for task in playing:
                task.cancel()
    limited = Throughput.between(before, after).tokens_per_second
    print(f"\nlimited {limited:.0f}, saturated {saturation:.0f} tokens/s; queue {statistics.fmean(queues):.1f}")
    assert limited >= 0.8 * saturation, "a machine that is busy with something else costs some"
    assert statistics.fmean(queues) <= 0.4 * CAPACITY
