"""The one interface behind which weights arrive.

    FolderDelivery   fetch: the announced weights as a verified model folder of this machine, while generation goes on
    LiveDelivery     apply: the announced weights straight into a running server, while it is paused
    Mail             how a delivery writes to the gateway; answers come in by `take`

A folder is applied by loading it (`ServerClient.load_weights`), and a server is started on one as well. A broadcast
(`deploy.inference.fetching.collective`) goes straight into a running server, and falls back to a folder whenever it
can't.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lamer.common.errors import LamerError
from lamer.common.messages import AnyMessage, WeightAnnouncement
from lamer.deploy.inference.engines.client import ServerClient

Mail = Callable[[AnyMessage], Awaitable[None]]


class DeliveryFailed(LamerError):
    """Weights could not be had, or are not what was announced. The server keeps those it has."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model folder that holds the announced weights, every file checked against its SHA-256.

    seconds, size: that fetching took, and bytes that it moved (0 for a folder that was read where it lies).
    """

    folder: Path
    seconds: float
    size: int


class FolderDelivery(Protocol):
    """Brings announced weights to this machine as a complete model folder. Belongs to one event loop."""

    async def fetch(self, wanted: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """The weights as a folder, checked. Generation goes on meanwhile.

        is_full: do not build on weights fetched before, as after a server refused what was made from them.

        Raises:
            DeliveryFailed: they can't be had, or are damaged.
        """
        ...

    def take(self, message: AnyMessage) -> None:
        """A message of the gateway for this delivery: its answers, and Welcome after a reconnection, at which what was
        asked is asked again.
        """
        ...


class ServerStuck(DeliveryFailed):
    """The server hangs in what it was asked to do, as in a broadcast whose trainer died: start it anew."""


class Withdrawn(DeliveryFailed):
    """A live delivery ended before it touched the server, which still holds the weights it had, all of them: it may go
    on, and the new ones are fetched as a folder while it does.
    """


class LiveDelivery(Protocol):
    """Brings announced weights into a running server without a folder. Belongs to one event loop.

    `lose` may be called at any time, also while `apply` waits: the server is gone or was started anew, so whatever was
    set up with it is void and is set up again with the next server given to `attach`.
    """

    def attach(self, client: ServerClient, on_stuck: Callable[[str], None]) -> None:
        """The server is up and serves: set up with it what updates need, in the background.

        on_stuck: called with a reason when the server hangs in what it was asked to do. Nothing but starting it anew
        helps then.
        """
        ...

    async def wants(self, announcement: WeightAnnouncement) -> bool:
        """Whether `apply` should be tried for these weights; without it they are fetched as a folder. May take
        seconds, to wait for the trainer's offer; generation goes on meanwhile.
        """
        ...

    async def apply(self, announcement: WeightAnnouncement, client: ServerClient, flush_cache: bool) -> None:
        """Put the weights into the server and label them with their version. The server is paused meanwhile; its
        caller paused it and lets it go on, and checks the version that it holds.

        Raises:
            Withdrawn: nothing was touched. DeliveryFailed, ServerRefused: it could not be done, and the server may be
            half-updated; the caller then loads the full folder, or starts the server anew, before it goes on.
            ServerStuck: it hangs and has to be started anew.
        """
        ...

    def take(self, message: AnyMessage) -> None:
        """A message of the gateway for this delivery, and Welcome after a reconnection."""
        ...

    def lose(self) -> None:
        """The server that weights were applied to is gone."""
        ...

    async def close(self) -> None:
        """Leave whatever was joined, while the server is still there if it is."""
        ...
