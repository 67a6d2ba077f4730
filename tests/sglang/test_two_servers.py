"""Several real SGLang servers under one run: shared prefixes, a server that is killed, one that joins late."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.processes import Started, updates
from tests.integration.servers import LONGEST_SECONDS, kill_one_and_add_a_third

pytestmark = [pytest.mark.sglang, pytest.mark.slow, pytest.mark.timeout(900)]

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


async def test_a_killed_server_comes_back_and_a_third_takes_its_share(
    folder: Path, lamer: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await kill_one_and_add_a_third(folder, lamer, monkeypatch, "sglang")
    assert "inference_error" not in caplog.text
