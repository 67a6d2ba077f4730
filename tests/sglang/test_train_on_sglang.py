"""Doors trained against the real SGLang: weights reach it while it generates, in each way of pausing it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lamer.learner.journal.reader import read_batch
from tests.integration.processes import TINY, Started, count, updates
from tests.integration.test_by_hand import free_port
from tests.sglang.conftest import Say
from tests.sglang.figures import describe, figures

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600)]
UPDATES = 20
LONGEST_SECONDS = 500.0


@dataclass(frozen=True)
class Bounds:
    """How far engine and trainer may differ on tokens of age 0: mean of an update's means, and the worst token."""

    mean: float
    worst: float


EXACT = Bounds(1e-5, 1e-4)
HELD_CACHE = Bounds(0.05, 3.0)
"""An update in place leaves held sequences, and prompts sent before the actor hears of it, keys of older weights."""
BFLOAT16 = Bounds(0.02, 1.0)


def check(run: Path, bounds: Bounds) -> None:
    """Every update is trained and delivered, and its tokens are of versions that the server held."""
    lines = updates(run)
    assert [line.step for line in lines] == list(range(1, UPDATES + 1))
    for line in lines:
        trials = read_batch(run / "journal.db", line.step)
        versions = {span.version for trial in trials for part in trial.completions() for span in part.versions}
        assert max(versions) <= line.step - 1
        assert min(versions) >= line.step - 1 - 2  # batch.max_staleness
    assert max(line.metrics.get("staleness/max", 0.0) for line in lines) > 0  # it generated while the trainer trained
    worst, mean = figures(lines, "engine/logprob_gap_max"), figures(lines, "engine/logprob_gap_mean")
    assert max(worst) <= bounds.worst
    assert statistics.fmean(mean) <= bounds.mean
    assert statistics.fmean(figures(lines, "engine/ess_age_0")) >= 0.95
    assert statistics.fmean(figures(lines, "engine/importance_ess")) >= 0.95
    assert max(figures(lines, "weights/pause_seconds")) > 0


@pytest.mark.parametrize(
    ("mode", "bounds"),
    [
        ("retract", EXACT),
        pytest.param("abort", EXACT, marks=pytest.mark.slow),
        pytest.param("in_place", HELD_CACHE, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_sglang_takes_every_update_while_it_generates(
    folder: Path, train: Callable[..., Started], say: Say, mode: str, bounds: Bounds
) -> None:
    overrides = (f"batch.updates={UPDATES}", "inference.engine=sglang", f"inference.update_mode={mode}")
    process = train(f"sglang-{mode}", *overrides)
    assert process.wait(LONGEST_SECONDS) == 0, process.text
    say(describe(folder / "runs" / f"sglang-{mode}"))
    check(folder / "runs" / f"sglang-{mode}", bounds)


def test_a_host_started_by_hand_serves_in_bfloat16(folder: Path, lamer: Callable[..., Started], say: Say) -> None:
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
    say(describe(run))
    check(run, BFLOAT16)
    assert count(run, "trials") >= UPDATES * 12
