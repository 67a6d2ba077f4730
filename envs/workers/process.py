"""The worker process: hosts games until its owner closes the connection or ends, however it ends.

    python -m lamer.envs.workers.process MODULE:FUNCTION SOCKET LIFELINE

SOCKET and LIFELINE are inherited file descriptors. Requests come over the socket, one at a time. Nothing is ever sent
over the lifeline, a pipe whose other end the owner alone holds: when the owner is gone, killed or not, reading it ends
and so does the process, even in the middle of a request.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import msgspec

from lamer.common.text import describe_error
from lamer.envs.workers.game import Game, Opener, load_opener
from lamer.envs.workers.messages import Broken, Call, Done, Drop, Failed, Reply, Request, receive, send

log = logging.getLogger("lamer.worker")

_PAGE = os.sysconf("SC_PAGESIZE")
_DECODER: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


class Host:
    """The games of this process, by session."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._games: dict[int, Game] = {}

    def handle(self, call: Call) -> Reply:
        """Ask the session's game; one that raises is closed."""
        try:
            game = self._games.get(call.session)
            if game is None:
                self._games[call.session] = game = self._opener(call.spec)
            return Done(game.handle(call.request), resident_bytes())
        except (Exception, SystemExit) as error:  # engines exit where they should raise
            log.warning("a game failed", exc_info=error)
            self.drop(call.session)
            return Failed(describe_error(error), resident_bytes())

    def drop(self, session: int) -> None:
        """Close the game of a session, if it has one."""
        game = self._games.pop(session, None)
        if game is not None:
            game.close()


def resident_bytes() -> int:
    """The memory that this process holds, 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def serve(connection: socket.socket, host: Host) -> None:
    """Answer requests until the owner closes the connection."""
    with contextlib.suppress(Broken):
        while True:
            match _DECODER.decode(receive(connection)):
                case Call() as call:
                    send(connection, host.handle(call))
                case Drop(session):
                    host.drop(session)


def _end_with(lifeline: int) -> None:
    """End this process at once when the owner's end of the lifeline closes."""
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def main() -> None:
    """Be a worker."""
    target, connection_number, lifeline = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    faulthandler.enable()  # an engine's crash leaves its traceback in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(name)s[%(process)d]: %(message)s")
    threading.Thread(target=_end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    serve(socket.socket(fileno=connection_number), Host(load_opener(target)))
    os._exit(0)


if __name__ == "__main__":
    main()
