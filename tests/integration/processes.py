"""Starting `lamer` as a user does, and looking at what it left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

TINY = Path(__file__).parent / "tiny.yaml"
LONGEST_SECONDS = 240.0


@dataclass
class Started:
    """A running `lamer` process, in a process group of its own, and the file its output goes to."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Its exit code; fails with its output when it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from error

    def interrupt(self) -> None:
        """Ctrl-C in its terminal: SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def descendants(self) -> list[psutil.Process]:
        """The processes below it at this moment."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, word: str) -> psutil.Process:
        """The process below it that has `word` in its command line: `actor`, `serve`, `lamer.learner.trainer`, ..."""
        return next(process for process in self.descendants() if word in process.cmdline())

    def interrupted(self) -> int:
        """Its exit code after Ctrl-C; fails when it goes on or leaves a process behind."""
        below = self.descendants()
        self.interrupt()
        code = self.wait()
        assert are_gone(below), [process.cmdline() for process in below if process.is_running()]
        return code

    @property
    def error(self) -> str:
        """Its only line that is an error; fails when there is a traceback or not exactly one such line."""
        assert "Traceback" not in self.text, self.text
        errors = [line.removeprefix("lamer: ") for line in self.text.splitlines() if line.startswith("lamer: ")]
        assert len(errors) == 1, self.text
        return errors[0]

    def end(self) -> None:
        """Kill what is left of it."""
        if self.process.poll() is None:
            for process in [*self.descendants(), psutil.Process(self.process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()


def are_gone(processes: Sequence[psutil.Process], seconds: float = 2.0) -> bool:
    """Whether all end in time. An orphan that nobody reaps (a container without init) is a zombie: gone, too."""
    deadline = time.monotonic() + seconds
    while any(_is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(arguments: Sequence[str], folder: Path, name: str) -> Started:
    """Start `lamer ARGUMENTS` in `folder`; its output goes to a file there."""
    output = folder / f"{name}-{len(list(folder.glob('*.out')))}.out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lamer.deploy.cli", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return Started(process, output)


def wait_until(what: Callable[[], bool], why: Callable[[], str], seconds: float = LONGEST_SECONDS) -> None:
    """Poll a fact that other processes bring about; fails with `why()` when it does not come."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s:\n{why()}")
        time.sleep(0.05)


@dataclass(frozen=True)
class UpdateLine:
    """One line of metrics.jsonl."""

    step: int
    metrics: dict[str, float]


def updates(run_dir: Path) -> list[UpdateLine]:
    """The updates that the run has reported so far."""
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [UpdateLine(line.pop("step"), line) for line in lines]


def last_step(run_dir: Path) -> int:
    """The update reported last, 0 before the first."""
    return max((line.step for line in updates(run_dir)[-1:]), default=0)


def count(run_dir: Path, query: str) -> int:
    """What `SELECT count(*) FROM {query}` says of the run's journal, 0 before there is one."""
    if not (run_dir / "journal.db").exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{run_dir}/journal.db?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute(f"SELECT count(*) FROM {query}").fetchone()[0])
        except sqlite3.OperationalError:  # no tables yet
            return 0
