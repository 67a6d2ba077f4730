"""Doors trained against the real SGLang: weights reach it while it generates, in each way of pausing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from learner import journal
from tests.integration.processes import TINY, Started, count, updates
from tests.integration.test_by_hand import free_port

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600)]
UPDATES = 20
LONGEST_SECONDS = 500.0


def check(run: Path, most_gap: float) -> None:
    """Every update is trained and delivered, and its tokens are of versions that the server held."""
    lines = updates(run)
    assert [line.step for line in lines] == list(range(1, UPDATES + 1))
    for line in lines:
        trials = journal.read_batch(run / "journal.db", line.step)
        versions = {span.version for trial in trials for part in trial.completions() for span in part.versions}
        assert max(versions) <= line.step - 1
        assert min(versions) >= line.step - 1 - 2  # batch.max_staleness
    assert max(line.metrics.get("staleness/max", 0.0) for line in lines) > 0  # it generated while the trainer trained
    gaps = [line.metrics["engine/logprob_gap_max"] for line in lines if "engine/logprob_gap_max" in line.metrics]
    assert gaps
    assert max(gaps) <= most_gap
    pauses = [line.metrics["weights/pause_seconds"] for line in lines if line.metrics["weights/pause_seconds"] > 0]
    assert pauses
    print(f"gap {max(gaps):.2e}; paused {sorted(pauses)[len(pauses) // 2]:.3f} s (median), {max(pauses):.3f} s at most")


@pytest.mark.parametrize(
    ("mode", "dtype", "most_gap"),
    [("retract", "float32", 1e-4), ("in_place", "float32", 1e-4), ("abort", "float32", 1e-4)],
)
def test_a_run_with_sglang_takes_every_update_while_it_generates(
    folder: Path, train: Callable[..., Started], mode: str, dtype: str, most_gap: float
) -> None:
    overrides = (f"batch.updates={UPDATES}", "inference.engine=sglang", f"inference.update_mode={mode}")
    process = train(f"sglang-{mode}", *overrides, f"inference.dtype={dtype}")
    assert process.wait(LONGEST_SECONDS) == 0, process.text
    check(folder / "runs" / f"sglang-{mode}", most_gap)


def test_a_host_started_by_hand_serves_in_bfloat16(folder: Path, lamer: Callable[..., Started]) -> None:
    port, run = free_port(), folder / "runs" / "sglang-hand"
    joins = ("--connect", f"tcp://127.0.0.1:{port}", "--keys", "keys-of-sglang")
    assert lamer("keys", "create", "keys-of-sglang").wait() == 0
    options = ("-c", str(TINY), "--name", "sglang-hand", "--plain", "--keys", "keys-of-sglang", "--port", str(port))
    learner = lamer("learner", *options, f"batch.updates={UPDATES}")
    server = lamer("serve", *joins, "--engine", "sglang", "--dtype", "bfloat16")
    actor = lamer("actor", *joins)
    assert learner.wait(LONGEST_SECONDS) == 0, learner.text + server.text
    assert server.wait(30.0) == 0, server.text
    assert actor.wait(30.0) == 0, actor.text
    check(run, 0.1)
    assert count(run, "trials") >= UPDATES * 12
