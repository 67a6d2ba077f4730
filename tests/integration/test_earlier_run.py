"""A run that an earlier version began, kept in tests/data, goes on under this one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lamer.learner.journal.reader import read_batch
from tests.integration.processes import Started, start

pytestmark = pytest.mark.timeout(300)
EARLIER = Path(__file__).parent.parent / "data" / "run-of-ddffd24"


@pytest.fixture
def resumed(tmp_path: Path) -> Iterator[Started]:
    """`lamer train --resume` of a copy: update 1 of 2 is in a checkpoint, the trials of update 2 in the journal."""
    work = shutil.copytree(EARLIER, tmp_path / "work")
    process = start(("train", "-c", "before.yaml", "--name", "before", "--plain", "--resume"), work, "resumed")
    yield process
    process.end()


def test_a_run_of_an_earlier_version_goes_on_and_comes_to_the_same_parameters(resumed: Started, tmp_path: Path) -> None:
    """The recorded batch of update 2, trained again from the checkpoint, gives what the earlier version made of it."""
    assert resumed.wait() == 0, resumed.text
    run = tmp_path / "work" / "runs" / "before"
    assert json.loads((run / "summary.json").read_text())["resumed_from"] == 1

    untouched = shutil.copytree(
        EARLIER / "runs" / "before", tmp_path / "untouched"
    )  # sqlite writes beside what it reads
    before, now = (read_batch(folder / "journal.db", 2) for folder in (untouched, run))
    assert [trial.trial_id for trial in now] == [trial.trial_id for trial in before]

    expected = load_file(EARLIER / "after-update-2.safetensors")
    got = load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():  # bit-equal on one processor; another one sums in another order
        np.testing.assert_allclose(got[name], tensor, rtol=0.0, atol=1e-6, err_msg=name)
