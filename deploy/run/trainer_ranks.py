"""The trainer's processes: one, or a rank for each of `trainer.gpus`. They live and die together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamer.deploy.run import processes

_CACHE, _VISIBLE = "TORCHINDUCTOR_CACHE_DIR", "CUDA_VISIBLE_DEVICES"
DISMISSED_SECONDS = 20.0
"""How long ranks may take to end that rank 0 has dismissed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the ranks ended: by the first of them that did. name: of it, for a sentence. log: its output, which begins at
    byte `start`.
    """

    code: int
    name: str
    log: Path
    start: int


class TrainerRanks:
    """One life of the trainer's processes."""

    def __init__(self, started: Sequence[Process], logs: Sequence[Path], starts: Sequence[int]) -> None:
        """starts: where in its log each process began."""
        self._processes = started
        self._logs = logs
        self._starts = starts

    @classmethod
    async def start(cls, command: Sequence[str], count: int, logs: Path) -> TrainerRanks:
        """Start `count` ranks by one command line. logs: the folder of their output.

        Raises:
            OSError: they can't be started.
        """
        files, starts = _open_logs(logs, count)
        address = f"127.0.0.1:{_free_port()}"
        started = [
            await processes.start(
                (*command, *_which(rank, count, address)), file, environment=_environment(rank, count)
            )
            for rank, file in enumerate(files)
        ]
        return cls(started, files, starts)

    @property
    def is_up(self) -> bool:
        """Whether a rank has not ended yet."""
        return any(process.returncode is None for process in self._processes)

    async def ended(self) -> Ended:
        """Wait for the first rank that ends, and end the others: they can't go on without it."""
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        first = next(rank for rank, wait in enumerate(waits) if wait.done())
        if waits[first].result() == 0:  # rank 0 has dismissed them all, and ends
            await asyncio.wait(waits, timeout=DISMISSED_SECONDS)
            first = 0
        self._kill()
        await asyncio.gather(*waits)
        return self._of(first)

    async def end(self, grace: float, ask: signal.Signals | None) -> Ended:
        """Let rank 0 end within `grace` seconds, asked by the signal `ask`, if any; then kill all of them."""
        await processes.end_all(self._processes[:1], grace, ask)
        if grace:
            others = [asyncio.ensure_future(process.wait()) for process in self._processes[1:]]
            if others:
                await asyncio.wait(others, timeout=DISMISSED_SECONDS)
        self._kill()
        await asyncio.gather(*(process.wait() for process in self._processes))
        return self._of(0)

    def _kill(self) -> None:
        """What is left of the ranks and of what they started."""
        for process in self._processes:
            processes.kill_session(process)

    def _of(self, rank: int) -> Ended:
        code = self._processes[rank].returncode
        assert code is not None
        name = "trainer" if len(self._processes) == 1 else f"trainer's rank {rank}"
        return Ended(code, name, self._logs[rank], self._starts[rank])


def _which(rank: int, count: int, address: str) -> tuple[str, ...]:
    """What tells a process which rank it is."""
    return () if count == 1 else ("--rank", str(rank), "--ranks", str(count), "--meet", address)


def _environment(rank: int, count: int) -> dict[str, str]:
    """One GPU for each rank, the only one that it sees; and a cache of compiled code, which ranks can't share."""
    if count == 1:
        return {}
    named = os.environ.get(_VISIBLE)
    cards = [str(card) for card in range(count)] if named is None else [card for card in named.split(",") if card]
    cache = os.environ.get(_CACHE) or f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"
    return {_VISIBLE: cards[rank] if rank < len(cards) else "", _CACHE: f"{cache}/rank-{rank}"}


def _open_logs(folder: Path, count: int) -> tuple[list[Path], list[int]]:
    """The log of each rank, and where this life's part of it begins."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / ("trainer.log" if rank == 0 else f"trainer-{rank}.log") for rank in range(count)]
    return files, [file.stat().st_size if file.exists() else 0 for file in files]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
