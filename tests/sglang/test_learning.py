"""Doors learned against the real SGLang: better than before training by more than chance explains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lamer.learner.journal.reader import read_batch
from lamer.learner.measuring.intervals import Interval, wilson_interval
from tests.integration.processes import Started, updates
from tests.sglang.conftest import Say
from tests.sglang.figures import describe, figures

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(900)]
CONFIG = Path(__file__).with_name("learning.yaml")
MAX_STALENESS = 1
LEAST_GAIN = 0.15


def interval(evaluation: dict[str, float]) -> Interval:
    """The 95% interval of pass@3."""
    n = int(evaluation["n"])
    return wilson_interval(round(evaluation["pass@3"] * n), n)


def check_updates_in_flight(run: Path) -> None:
    """The server took weights while it generated: at least 20 versions sampled, and trials hold several."""
    lines = updates(run)
    sampled: set[int] = set()
    mixed = 0
    for line in lines:
        for trial in read_batch(run / "journal.db", line.step):
            versions = {span.version for part in trial.completions() for span in part.versions}
            sampled |= versions
            mixed += len(versions) > 1
            assert max(versions) < line.step
            assert min(versions) >= line.step - 1 - MAX_STALENESS
    assert len(sampled) >= 20
    assert mixed >= 20, "trials that were being played while the weights changed"


def check_engine(run: Path) -> None:
    """Engine and trainer agree in float32, and every age of tokens is accounted for."""
    lines = updates(run)
    assert max(figures(lines, "engine/logprob_gap_max")) <= 1e-4
    assert max(figures(lines, "engine/parity_max")) <= 1e-4
    assert min(figures(lines, "engine/ess_age_0")) >= 0.95
    ages = range(MAX_STALENESS + 1)
    for line in lines:
        assert sum(line.metrics[f"engine/tokens_age_{age}"] for age in ages) == pytest.approx(1.0)


def test_doors_are_learned_against_sglang_in_flight(lamer: Callable[..., Started], folder: Path, say: Say) -> None:
    process = lamer("train", "-c", str(CONFIG), "--name", "learning", "--plain")
    assert process.wait(840.0) == 0, process.text
    run = folder / "runs" / "learning"
    summary = json.loads((run / "summary.json").read_text())
    before, after = summary["warm_start"], summary["evaluation"]
    low, high = interval(before), interval(after)
    say(
        f"pass@3 {before['pass@3']:.3f} [{low.low:.3f} .. {low.high:.3f}] -> {after['pass@3']:.3f} "
        f"[{high.low:.3f} .. {high.high:.3f}] on {after['n']} tasks, {summary['updates']} updates in "
        f"{summary['training_seconds']:.0f} s\n{describe(run)}"
    )
    check_updates_in_flight(run)
    check_engine(run)
    assert after["pass@3"] >= before["pass@3"] + LEAST_GAIN
    assert high.low > low.high
