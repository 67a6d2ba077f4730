"""Starting `lamer` as a user does, and looking at what it left."""

from __future__ import annotations

import json
import os
import signal
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

    def end(self) -> None:
        """Kill what is left of it."""
        if self.process.poll() is None:
            left = [*self.descendants(), psutil.Process(self.process.pid)]
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self.process.wait()


def start(arguments: Sequence[str], folder: Path, name: str) -> Started:
    """Start `lamer ARGUMENTS` in `folder`."""
    output = folder / f"{name}.out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *arguments],
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
    return [UpdateLine(line["step"], line["metrics"]) for line in lines]
