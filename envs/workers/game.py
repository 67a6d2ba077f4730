"""What a worker process hosts. An environment names an opener as "module:function"; both ends agree on the bytes."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast


class Game(ABC):
    """One game in a worker process. What it raises is a fault of the environment."""

    @abstractmethod
    def handle(self, request: bytes) -> bytes:
        """Do what the request says."""

    def close(self) -> None:  # noqa: B027 - most games hold nothing
        """Release what the game holds."""


Opener = Callable[[bytes], Game]
"""Opens a game from its specification."""


def load_opener(target: str) -> Opener:
    """The function that `target` names."""
    module, _, name = target.partition(":")
    return cast(Opener, getattr(importlib.import_module(module), name))
