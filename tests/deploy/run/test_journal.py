"""`lamer journal`: what it says, and what it never deletes."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from lamer.common import config
from lamer.common.errors import BadInput
from lamer.common.settings import Settings
from lamer.deploy.run.folder import RunFolder, locked
from lamer.deploy.run.inspect import inspect_run
from lamer.deploy.run.journal import prune_run
from tests.learner.journal.parts import archive, play, read_all


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five updates, checkpoints of 2 and 4."""
    (tmp_path / "config.yaml").write_text(config.to_yaml(Settings()))
    asyncio.run(play(tmp_path / "journal.db", updates=5))
    for step in (2, 4):
        asyncio.run(archive(tmp_path / "journal.db", step))
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    return tmp_path


def kept(run: Path) -> set[int]:
    """Updates whose trials have their bodies."""
    return {
        step
        for step in range(1, 6)
        for one, body in read_all(run / "journal.db").items()
        if f"/train/{step}/" in one and body
    }


def test_a_dry_run_says_what_would_go_and_deletes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune_run(run, 3, is_dry=True)
    said = capsys.readouterr().out
    assert "would delete the bodies of 4 trials up to update 1: 0 segments" in said
    assert "updates 2 to 4 keep theirs" in said
    assert kept(run) == {1, 2, 3, 4, 5}


def test_pruning_never_deletes_what_a_resumed_run_could_train_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prune_run(run, 0, is_dry=False)
    assert "updates 3 to 4 keep theirs (the oldest checkpoint is of update 2)" in capsys.readouterr().out
    assert kept(run) == {3, 4, 5}
    assert [file.name for file in (run / "segments").iterdir()] == ["000003-000004.zst"]
    prune_run(run, 0, is_dry=False)
    assert "nothing to delete" in capsys.readouterr().out


def test_trials_that_were_pruned_are_listed_as_such(run: Path) -> None:
    prune_run(run, 0, is_dry=False)
    out = io.StringIO()
    inspect_run(run, step=1, console=Console(file=out, width=120))
    assert out.getvalue().count("pruned") == 2


def test_a_run_without_a_checkpoint_or_at_work_is_not_pruned(run: Path) -> None:
    with locked(RunFolder(run, Settings(), is_resumed=True)), pytest.raises(BadInput, match="a learner is at work"):
        prune_run(run, 0, is_dry=False)
    for step in (2, 4):
        (run / "checkpoints" / f"step-{step:08d}").rmdir()
    with pytest.raises(BadInput, match="holds no checkpoint"):
        prune_run(run, 0, is_dry=False)
    assert kept(run) == {1, 2, 3, 4, 5}
