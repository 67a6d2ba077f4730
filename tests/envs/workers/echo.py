"""A game for worker processes that does what it is told: remember, sleep, fail, exit, grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lamer.envs.workers.game import Game
from lamer.envs.workers.worker import WorkerOptions

ENVIRON = (("PYTHONPATH", str(Path(__file__).parent)),)
OPENER = "echo:open_echo"
"""Its name where ENVIRON holds, as in the worker processes of `OPTIONS`."""
OPTIONS = WorkerOptions(OPENER, environ=ENVIRON)


class Echo(Game):
    """Answers with what it was opened from and all that it was told so far."""

    def __init__(self, spec: bytes) -> None:
        self._said = [spec]
        self._ballast: list[bytearray] = []

    def handle(self, request: bytes) -> bytes:
        what, _, argument = request.partition(b" ")
        match what:
            case b"pid":
                return str(os.getpid()).encode()
            case b"sleep":
                time.sleep(float(argument))
            case b"exit":
                os._exit(7)
            case b"raise":
                raise ValueError(argument.decode())
            case b"leave":
                raise SystemExit(3)
            case b"grow":
                self._ballast.append(bytearray(os.urandom(1024) * 1024 * int(argument)))
        self._said.append(request)
        return b",".join(self._said)


def open_echo(spec: bytes) -> Game:
    if spec == b"broken":
        raise OSError("no such game")
    return Echo(spec)
