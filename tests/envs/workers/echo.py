"""A game for worker processes that does what it is told: remember, sleep, fail, exit, grow."""

from __future__ import annotations

import os
import time

from envs.workers.game import Game

OPENER = "tests.envs.workers.echo:open_echo"


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
