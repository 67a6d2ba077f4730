"""What is shown of a child that failed: the error itself, and what to do about it."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lamer.common.errors import LamerError, Missing, RunFailed, failure_of
from lamer.deploy.cli import LamerGroup
from lamer.deploy.run.processes import last_error

GROUP = """
import asyncio

async def fail():
    raise OSError(28, "No space left on device", "runs/a/weights/.v3")

async def main():
    async with asyncio.TaskGroup() as outer:
        async with asyncio.TaskGroup() as inner:
            inner.create_task(fail())

asyncio.run(main())
"""
BOX = """\u256d\u2500\u2500 Traceback (most recent call last) \u2500\u2500\u256e
\u2502 /lamer/trainer.py:12 in save \u2502
\u2570\u2500\u2500\u2500\u256f
RuntimeError: CUDA error: device-side assert triggered
Compile with TORCH_USE_CUDA_DSA to see more.
"""


def said(tmp_path: Path, text: str) -> str:
    (tmp_path / "log").write_text(text, encoding="utf-8")
    return last_error(tmp_path / "log")


def test_of_a_group_of_errors_the_innermost_is_shown(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", GROUP], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.rstrip().endswith("+------------------------------------")
    assert said(tmp_path, done.stderr) == "OSError: [Errno 28] No space left on device: 'runs/a/weights/.v3'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (BOX, "RuntimeError: CUDA error: device-side assert triggered"),
        ("2026 lamer.trainer update 1\nlamer: the disk is full\n2026 x: goodbye\n", "the disk is full"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'a'\nlamer: a line for users\n", "a line for users"),
        ("Traceback (most recent call last):\n  File x\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        (
            "Traceback (most recent call last):\n  File x\nlamer.common.errors.Missing: no port\n",
            "lamer.common.errors.Missing: no port",
        ),
        ("error: no model in x\n+------+\n\n", "error: no model in x"),
        ("", ""),
    ],
)
def test_what_a_log_says_last(tmp_path: Path, text: str, shown: str) -> None:
    assert said(tmp_path, text) == shown


def grouped(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("outer", [ExceptionGroup("inner", list(errors))])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (grouped(ValueError("x"), Missing("no port")), Missing, "no port"),
        (
            grouped(OSError(errno.ENOSPC, "No space left", "a")),
            RunFailed,
            "the disk is full .*free some space",
        ),
        (OSError(errno.EMFILE, "Too many open files"), RunFailed, "too many files are open .*ulimit -n"),
        (grouped(RuntimeError("I/O error: No space left on device (os error 28)")), RunFailed, "the disk is full"),
    ],
)
def test_errors_of_the_machine_say_what_to_do(error: Exception, kind: type[LamerError], message: str) -> None:
    failure = failure_of(error)
    assert type(failure) is kind
    with pytest.raises(kind, match=message):
        raise failure


def test_a_defect_stays_one() -> None:
    assert failure_of(grouped(ValueError("x"))) is None


def test_a_command_says_in_one_line_that_the_disk_is_full() -> None:
    app = typer.Typer(cls=LamerGroup)

    @app.command()
    def fail() -> None:
        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(full())

        async def full() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        asyncio.run(work())

    @app.command()
    def other() -> None:
        """Typer's groups have two commands or more."""

    done = CliRunner().invoke(app, ["fail"])
    assert done.exit_code == 1
    assert done.output.startswith("lamer: the disk is full")
    assert done.output.count("\n") == 1
