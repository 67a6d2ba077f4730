"""The trainer process says what it ended with in one line, also where a task of it failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from lamer.common.keys import create_keys, load_server_keys, write_trainer_keys
from lamer.learner.trainer import __main__ as entry


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "v3"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_in_a_task_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    async def fail(options: object) -> int:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [error])])

    create_keys(tmp_path / "learner")
    (tmp_path / "keys").mkdir()
    write_trainer_keys(tmp_path / "keys", load_server_keys(tmp_path / "learner"))
    monkeypatch.setattr(entry, "run_trainer", fail)
    flags = ["--connect", "tcp://127.0.0.1:1", "--keys", str(tmp_path / "keys"), "--run-dir", str(tmp_path)]
    assert entry.main(flags) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"lamer: the disk is full ({error}): free some space")
