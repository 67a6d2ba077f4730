"""Weights delivered into the running SGLang are those that a server started on them has, whichever way they came.

Broadcasts are in `test_collective`.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lamer.common.messages import WeightAnnouncement
from lamer.common.weights import weight_files
from lamer.deploy.inference.applying import apply_folder
from lamer.deploy.inference.engines.launch import EngineProcess, Launcher
from lamer.deploy.inference.engines.options import EngineOptions
from lamer.deploy.inference.fetching.base import FolderDelivery
from lamer.deploy.inference.fetching.folders import PathDelivery
from tests.contract.served import VOCABULARY, Served, write_models
from tests.deploy.inference.delivering import Loopback
from tests.sglang.conftest import Say

pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(600)]
PROMPTS, PROMPT_TOKENS, TOKENS = 50, 24, 16
BOUND = 1e-3


@dataclass
class TwoFolders:
    """A model whose version 0 is one folder and whose later versions are another."""

    first: Path
    second: Path

    def step(self) -> None:
        """Nothing to train."""

    def publish(self, folder: Path, version: int) -> WeightAnnouncement:
        shutil.copytree(self.second if version else self.first, folder)
        return WeightAnnouncement(version, str(folder), weight_files(folder))


@dataclass(frozen=True)
class Greedy:
    """ids [PROMPTS, TOKENS] and their logprobs [PROMPTS, TOKENS]."""

    ids: np.ndarray
    logprobs: np.ndarray

    def difference(self, other: Greedy) -> float:
        """The largest difference of logprobs; infinite where a token is another one."""
        if not np.array_equal(self.ids, other.ids):
            return float("inf")
        return float(np.abs(self.logprobs - other.logprobs).max())


def greedy(engine: EngineProcess, round_number: int) -> Greedy:
    """Responses to the same prompts, one request at a time. `extra_key` keeps a round from what another one cached."""
    server = Served(engine.url, {}, engine.api_key)
    generator = np.random.default_rng(7)
    ids, logprobs = [], []
    for number in range(PROMPTS):
        prompt = [10 + number, *map(int, generator.integers(10, VOCABULARY, PROMPT_TOKENS))]
        reply = server.generate(prompt, TOKENS, top={"extra_key": str(round_number)})
        assert reply["meta_info"]["cached_tokens"] == 0
        ids.append(reply["output_ids"])
        logprobs.append([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]])
    return Greedy(np.array(ids), np.array(logprobs))


async def deliver(delivery: FolderDelivery, wanted: WeightAnnouncement, engine: EngineProcess) -> int:
    """Fetch and apply, as a host does; the bytes that moved."""
    fetched = await delivery.fetch(wanted)
    await apply_folder(engine, "retract", wanted, fetched.folder)
    return fetched.size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_delivered_weights_answer_as_those_of_a_server_started_on_them(
    tmp_path: Path, dtype: str, say: Say
) -> None:
    folders = write_models(tmp_path / "models")
    options = EngineOptions("sglang", "127.0.0.1", 0, 8, 8192, dtype=dtype)
    async with Loopback(tmp_path / "run", TwoFolders(folders["base"], folders["other"])) as run:
        old, new = run.current, run.publish()
        launcher = Launcher(options)
        fresh, updated = await asyncio.gather(launcher.open(folders["other"], 1), launcher.open(folders["base"], 0))
        try:
            expected, before = await asyncio.to_thread(greedy, fresh, 0), await asyncio.to_thread(greedy, updated, 0)
            assert before.difference(expected) > BOUND, "the two checkpoints answer alike"

            await deliver(PathDelivery(), new, updated)
            by_path = await asyncio.to_thread(greedy, updated, 1)

            await deliver(run.delivery, old, updated)
            back = await asyncio.to_thread(greedy, updated, 2)
            moved = await deliver(run.delivery, new, updated)  # as a difference from the old ones
            by_stream = await asyncio.to_thread(greedy, updated, 3)
        finally:
            await asyncio.gather(fresh.stop(), updated.stop())
    found = {"path": by_path.difference(expected), "stream": by_stream.difference(expected)}
    say(f"{dtype}: {by_path.ids.size} greedy logprobs differ by at most {found}; the stream moved {moved} bytes")
    assert max(found.values()) <= BOUND
    assert back.difference(before) <= BOUND
    assert moved > 0
