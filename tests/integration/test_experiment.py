"""`lamer experiment` with real runs of a few seconds each: run, interrupted, gone on with, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.integration.processes import TINY, Started, last_step, wait_until

pytestmark = pytest.mark.timeout(400)
Lamer = Callable[..., Started]

EXPERIMENT = {
    "name": "tiny",
    "title": "Three doors",
    "question": "Does a grid run?",
    "base": [str(TINY)],
    "arms": [
        {"name": "meta", "overrides": ["batch.updates=6"]},
        {"name": "crash", "overrides": ["gateway.bind=tcp://192.0.2.1"]},
        {"name": "untrained", "overrides": ["batch.updates=0", "evaluation.initial=false"]},
    ],
    "evaluations": [
        {
            "name": "repeated",
            "overrides": ["evaluation.rounds=3", "evaluation.memory=none"],
            "arms": ["meta", "untrained"],
        }
    ],
    "page": [
        {"kind": "pass_at", "title": "Success", "arms": ["meta", "untrained"]},
        {"kind": "diversity", "title": "Variety", "arms": ["meta", "untrained"], "evaluation": "repeated"},
    ],
}


def test_an_experiment_is_interrupted_gone_on_with_and_ends_in_a_page(folder: Path, lamer: Lamer) -> None:
    file = folder / "tiny-experiment.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT))
    arguments = ("experiment", str(file), "--results", "docs/results")
    runs, results = folder / "experiments" / "tiny", folder / "docs" / "results"

    first = lamer(*arguments)
    wait_until(lambda: last_step(runs / "meta-s0") >= 3 or first.process.poll() is not None, lambda: first.text)
    assert first.interrupted() == 130, first.text
    assert not (results / "tiny" / "cells" / "meta-s0.json").exists()

    second = lamer(*arguments)
    assert second.wait() == 1, second.text
    assert "meta-s0: goes on" in second.text
    assert "1 of the cells failed: crash-s0: " in second.error

    meta = json.loads((results / "tiny" / "cells" / "meta-s0.json").read_text())
    assert (meta["updates"], meta["final"]["n"], meta["curve"]["updates"]) == (6, 12, [1, 2, 3, 4, 5, 6])
    assert meta["evaluations"]["repeated"]["measurement"]["n"] == 36
    untrained = json.loads((results / "tiny" / "cells" / "untrained-s0.json").read_text())
    assert (untrained["updates"], untrained["trials"]) == (0, 0)
    assert untrained["evaluations"]["repeated"]["measurement"]["episode_diversity"] > 0.0

    page = (results / "tiny.md").read_text()
    share = 100 * meta["final"]["pass_at"][1]
    assert f"{share:.1f} [" in next(line for line in page.splitlines() if line.startswith("| meta |"))
    assert (results / "tiny" / "1-pass_at.svg").is_file()
    assert (results.parent / "results.md").is_file()

    third = lamer(*arguments, "--only", "meta", "--only", "untrained")
    assert third.wait() == 0, third.text
    assert "2 of 2 cells are done, 0 to do" in third.text
