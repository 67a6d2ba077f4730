"""Watching a run over its own socket: an observer asks for `Status` once a second and hands it to a view."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Protocol

from lamer.common.keys import ClientKeys
from lamer.common.liveness.guard import surviving
from lamer.common.messages import PROTOCOL_VERSION, Hello, Role, Shutdown, Status, StatusRequest
from lamer.common.session import Session

log = logging.getLogger("lamer.observer")

PERIOD_SECONDS = 1.0


class View(Protocol):
    """Where a run's progress is shown. is_plain: as lines, not as a panel that has the terminal to itself."""

    is_plain: bool

    def show(self, status: Status) -> None:
        """Show how the run is."""

    def note(self, text: str) -> None:
        """Show one line about something that happened."""

    def close(self) -> None:
        """Leave the terminal as it should be."""


async def follow(url: str, keys: ClientKeys, view: View, timeout: float) -> Shutdown:
    """Show the run's status every second until the gateway says that it is over.

    Raises:
        Missing: the gateway can't be reached, or has been away for too long. BadInput: it refused us.
    """
    name = f"observer-{socket.gethostname()}-{os.getpid()}"
    hello = Hello(protocol_min=PROTOCOL_VERSION, protocol_max=PROTOCOL_VERSION, role=Role.OBSERVER, name=name)
    session = await Session.open(url, keys, hello, timeout)
    asking = asyncio.create_task(_ask(session))
    try:
        while True:
            match await session.receive():
                case Status() as status:
                    with surviving(log, status, "the learner"):
                        view.show(status)
                case Shutdown() as shutdown:
                    return shutdown
                case _:
                    continue  # a Welcome after a reconnection
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await session.close("the observer leaves")


async def _ask(session: Session) -> None:
    while True:
        await session.send(StatusRequest())
        await asyncio.sleep(PERIOD_SECONDS)
