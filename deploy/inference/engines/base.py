"""What the host agent needs of an inference server, whoever started it.

Engine         a server that answers now: `launch.EngineProcess` (ours) or `attach.AttachedServer` (somebody's)
EngineSource   opens one, and another after it is gone: `launch.Launcher` or `attach.Attacher`
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Protocol

from lamer.deploy.inference.engines.client import ServerClient


class Idling(enum.Enum):
    """How a server is brought to load weights with nothing in flight, and no new request before its cache is empty.

    ITSELF: a load without a pause does so. DRAIN: the same, but its scheduler must have made a step since its last
    request ended, so an operation that changes nothing goes before the load. PAUSE: only paused by `abort`.
    """

    ITSELF = "itself"
    DRAIN = "drain"
    PAUSE = "pause"


class Engine(Protocol):
    """A server that answers.

    url, api_key: for actors. max_running: sequences in its batch at once. is_loaded: it was started on the folder and
    version that it was opened with.
    """

    client: ServerClient
    url: str
    api_key: str
    max_running: int
    is_loaded: bool

    def update_mode(self, wanted: str) -> str:
        """How a weight update may pause this server, when the run wants `wanted`."""
        ...

    @property
    def idling(self) -> Idling:
        """How it is brought to have nothing in flight, for the modes abort and wait."""
        ...

    async def ended(self) -> str:
        """Wait until the server is gone; why, in words."""
        ...

    async def stop(self) -> None:
        """Let go of the server: end it if we started it. Harmless when called again."""
        ...


class EngineSource(Protocol):
    """Opens a server; called again after the one before was stopped. is_owned: its servers end with us."""

    is_owned: bool

    async def open(self, folder: Path, version: int) -> Engine:
        """A server that answers; ours is started on the model folder, labelled with the policy version.

        Raises:
            LamerError: there can be none.
        """
        ...
