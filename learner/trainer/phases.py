"""Seconds of an update by phase, measured without waiting for the device between phases.

    packing    samples -> packs
    scoring    passes without gradient: proximal logprobs, the KL reference, the critic's values
    forward    a pack onto the device, and its objective
    backward   its gradient, what is computed again for it included
    optimizer  clipping and the step

On the CPU a phase is what the clock says. On CUDA work is only queued by the time a phase ends: events are put into the
stream around it, and read once the update is over.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lamer.common.messages import Metric

PHASES = ("packing", "scoring", "forward", "backward", "optimizer")


class Phases:
    """Adds up the seconds of each phase of one update."""

    def __init__(self, device: torch.device) -> None:
        """device: where the work is done."""
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count what the block takes as `phase`, one of `PHASES`; phases do not nest."""
        if self._is_cuda:
            first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            stream = torch.cuda.current_stream(self._device)
            first.record(stream)
            yield
            last.record(stream)
            self._events.append((phase, first, last))
            return
        begin = time.perf_counter()
        yield
        self._seconds[phase] += time.perf_counter() - begin

    def metrics(self) -> list[Metric]:
        """`trainer/PHASE_seconds` of every phase; waits for the device."""
        for phase, first, last in self._events:
            last.synchronize()
            self._seconds[phase] += first.elapsed_time(last) / 1e3
        self._events.clear()
        return [Metric(f"trainer/{phase}_seconds", self._seconds[phase]) for phase in PHASES]
