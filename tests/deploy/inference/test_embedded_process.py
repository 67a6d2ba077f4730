"""The engine as a process: its exit codes, and that it ends when told."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path


def run_engine(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lamer.deploy.inference.embedded", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_told_in_one_line_and_exit_code_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_engine("--model-path", "anything", "--port", str(port))
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr


def test_a_folder_without_a_model_is_exit_code_2(tmp_path: Path) -> None:
    done = run_engine("--model-path", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert done.stderr == f"error: no model in {tmp_path}: it has no config.json\n"


def test_a_senseless_flag_is_exit_code_2() -> None:
    assert run_engine("--model-path", "x", "--max-running-requests", "0").returncode == 2
