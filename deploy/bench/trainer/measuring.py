"""Seconds, peak bytes, and what known cards could do at most."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations a second with float32 sums, from the makers' data sheets, by a part of the card's name."""

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_operations(device: torch.device) -> float | None:
    """Operations a second that the card reaches at most in bfloat16; None on a CPU and for a card not in `PEAKS`."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def device_name(device: torch.device) -> str:
    """The card's name, or that of the processor and its threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} thread(s)"


def clock_of(device: torch.device, threads: int) -> Clock:
    """What seconds are measured by: process time on one thread of a CPU, which other processes do not disturb."""
    return Clock(device, "process time" if device.type == "cpu" and threads == 1 else "wall clock")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of work on a device. kind: "wall clock", or "process time"."""

    device: torch.device
    kind: str

    def time(self, work: Callable[[], Result]) -> tuple[float, Result]:
        """Seconds that `work` takes, what it left to the device included, and what it returned."""
        _wait(self.device)
        begin = self._now()
        result = work()
        _wait(self.device)
        return self._now() - begin, result

    def _now(self) -> float:
        return time.process_time() if self.kind == "process time" else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Where a process's memory stood before the model was loaded; `read` says how far it rose since.

    kind: "cuda allocator", or "process" for the resident set of the whole process beyond `before`.
    """

    device: torch.device
    kind: str
    before: int

    @classmethod
    def begin(cls, device: torch.device) -> PeakMemory:
        """From here on."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return cls(device, "cuda allocator", torch.cuda.memory_allocated(device))
        if _CLEAR.exists():
            _CLEAR.write_text("5", encoding="ascii")  # the kernel's peak of the resident set starts anew
        return cls(device, "process", _resident("VmRSS:"))

    def read(self) -> int:
        """Bytes at the peak beyond those at the beginning."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return max(0, _resident("VmHWM:") - self.before)


def _resident(entry: str) -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(entry):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
