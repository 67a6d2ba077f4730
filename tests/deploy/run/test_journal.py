"""`lamer journal`: what it says, and what it never deletes."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from lamer.common import config
from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.settings import Settings
from lamer.deploy.run.folder import RunFolder, locked
from lamer.deploy.run.inspect import inspect_run
from lamer.deploy.run.journal import checkpoint_without_journal, prune_run, repair_run, verify_run
from lamer.deploy.run.learning import _resume_step
from tests.learner.journal.parts import archive, play, read_all
from tests.learner.journal.test_checking import flip_logprob


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


def test_verify_says_what_there_is_and_fails_by_what_is_wrong(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify_run(run)
    said = capsys.readouterr().out
    assert "14 trials = 1 stored + 2 claimed + 8 trained + 1 dropped + 2 evaluated" in said
    assert "bodies: 10 in segments, 4 in journal.db, 0 deleted or set aside" in said
    flip_logprob(run / "journal.db", "r/train/5/0")
    with pytest.raises(RunFailed, match=f"1 problem in .*: `lamer journal repair {run}`"):
        verify_run(run)
    assert "r/train/5/0 can't be read" in capsys.readouterr().out
    repair_run(run)
    said = capsys.readouterr().out
    assert "r/train/5/0 can't be read" in said
    assert f"1 trial set aside, 14 kept\nwhat was damaged lies in {run / 'damaged-1'}" in said
    verify_run(run)


def test_a_checkpoint_whose_journal_is_gone_is_refused_until_a_new_one_is_begun(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "metrics.jsonl").write_text('{"step": 4, "drops/groups": 3.0}\n{"step": 5, "dro')
    assert checkpoint_without_journal(run) == ""
    (run / "journal.db").unlink()
    folder = RunFolder(run, Settings(), is_resumed=True)
    with pytest.raises(BadInput, match=f"journal.db is gone: .*`lamer journal repair {run}` begins a new one"):
        _resume_step(folder)
    repair_run(run)
    played = (4 + 2 * (Settings().batch.max_staleness + 2) + 20) * Settings().batch.groups + 3
    assert f"whose groups begin with {played}" in capsys.readouterr().out
    assert checkpoint_without_journal(run) == ""


def test_a_run_that_never_began_has_nothing_to_repair(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config.to_yaml(Settings()))
    with pytest.raises(Missing, match="neither a journal nor a checkpoint"):
        repair_run(tmp_path)
