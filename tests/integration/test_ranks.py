"""Several processes train one model: started together, ended together, and resumed by another number of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.processes import Started, are_gone, last_step, updates, wait_until
from tests.integration.test_kills import ENDLESS, check_journal

pytestmark = pytest.mark.timeout(300)
Train = Callable[..., Started]


def ranks_of(process: Started) -> dict[str, psutil.Process]:
    found = [each for each in process.descendants() if "lamer.learner.trainer" in each.cmdline()]
    return {each.cmdline()[each.cmdline().index("--rank") + 1]: each for each in found}


def test_a_killed_rank_takes_the_others_along_they_come_back_and_one_process_can_go_on(
    folder: Path, train: Train
) -> None:
    run = folder / "runs" / "ranked"
    process = train("ranked", ENDLESS, "trainer.gpus=2")
    wait_until(lambda: last_step(run) >= 3, lambda: process.text)
    before, lines = ranks_of(process), len(updates(run))
    assert sorted(before) == ["0", "1"]
    before["1"].kill()
    assert are_gone(list(before.values()), seconds=60.0)
    wait_until(lambda: len(updates(run)) >= lines + 4, lambda: process.text)
    assert process.interrupted() == 130, process.text
    check_journal(run)
    assert "the trainer's rank 1 was killed by SIGKILL: restart 1 of 3" in (run / "logs" / "learner.log").read_text()

    last = last_step(run)
    alone = train("ranked", f"batch.updates={last + 2}", "trainer.gpus=1", "--resume")
    assert alone.wait() == 0, alone.text
    assert last_step(run) == last + 2
    assert (run / "model" / "model.safetensors").is_file()
