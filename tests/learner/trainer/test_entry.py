"""The trainer process says what it ended with in one line, also where a task of it failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.common.keys import create_keys
from lamer.learner.trainer import __main__ as entry


def test_a_full_disk_in_a_task_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(options: object) -> int:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [OSError(28, "No space left on device", "v3")])])

    create_keys(tmp_path / "keys")
    monkeypatch.setattr(entry, "run_trainer", fail)
    flags = ["--connect", "tcp://127.0.0.1:1", "--keys", str(tmp_path / "keys"), "--run-dir", str(tmp_path)]
    assert entry.main(flags) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lamer: the disk is full ([Errno 28] No space left on device: 'v3'): make room")
