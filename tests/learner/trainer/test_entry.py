"""How the trainer's process says what ended it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from lamer.common.keys import create_keys
from lamer.learner.trainer import __main__ as entry
from lamer.learner.trainer.trainer import TrainerOptions


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "state.json"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_with_what_to_do_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(_: TrainerOptions) -> int:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [error])

    create_keys(tmp_path)
    monkeypatch.setattr(entry, "_train", fail)
    arguments = ("--connect", "tcp://127.0.0.1:1", "--keys", str(tmp_path), "--run-dir", str(tmp_path))
    assert entry.main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"lamer: {type(error).__name__}: {error}; the disk is full: free some space")
