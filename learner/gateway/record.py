"""`metrics.jsonl`: a line an update, what the trainer reported with the gateway's own figures beside it.

A resumed run's record reads as if it had not been interrupted: lines of updates that are trained again go, and time,
trials and drops count on from where the checkpoint stood.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import RunFailed, advice_for
from lamer.common.messages import Metric

SECONDS, TRAINING_SECONDS = "run/seconds", "run/training_seconds"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run had spent when it had trained an update. is_known: a run that lamer 0.1 began does not say."""

    seconds: float = 0.0
    training_seconds: float = 0.0
    staleness_max: int = 0
    is_known: bool = True


class MetricsFile:
    """Writes and reads a run's record. Its file is open from the start, so that a line never waits for a free one, and
    has no buffer: what could not be written to a full disk is not tried again by `close`.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            RunFailed: it can't be opened for writing.
        """
        self._path = path
        self._last = 0
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise RunFailed(f"the run's record can't be written: {error}{advice_for(error)}") from error

    def write(self, step: int, metrics: Sequence[Metric]) -> None:
        """Add the line of update `step`; lines from it on, of a trainer that went back to a checkpoint, go first."""
        if step <= self._last:
            self.forget_after(step - 1)
        line = json.dumps({"step": step, **{metric.name: metric.value for metric in metrics}})
        self._file.write(f"{line}\n".encode())
        self._last = step

    def forget_after(self, step: int) -> Spent:
        """Drop the lines after update `step`, in one step; what the run had spent by then."""
        kept = [tree for tree in self._lines() if _step(tree) <= step]
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        replacement = temporary.open("wb", buffering=0)
        replacement.write("".join(json.dumps(tree) + "\n" for tree in kept).encode())
        temporary.replace(self._path)
        self._file.close()
        self._file = replacement
        self._last = max(map(_step, kept), default=0)
        if not kept:
            return Spent(is_known=step == 0)
        last = kept[-1]
        return Spent(
            _number(last, SECONDS),
            _number(last, TRAINING_SECONDS),
            int(max(_number(tree, "staleness/max") for tree in kept)),
            TRAINING_SECONDS in last,
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _lines(self) -> list[Mapping[str, object]]:
        """Every whole line of the file; a last one that was cut off is left out."""
        found: list[Mapping[str, object]] = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                tree = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(tree, dict):
                found.append(tree)
        return found


def _step(tree: Mapping[str, object]) -> int:
    return int(_number(tree, "step"))


def _number(tree: Mapping[str, object], name: str) -> float:
    value = tree.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
