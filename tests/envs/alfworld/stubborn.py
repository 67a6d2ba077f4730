"""Houses for worker processes whose planner does what the game's name says, without an engine.

..slow..     thinks for an hour
..crash..    ends its process, each time
..once..     ends its process the first time
..unreadable..   fails
..unsolvable..   has no solution
others       have one
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from lamer.envs.alfworld.messages import AnyRequest, HouseSpec, Reset, Scene, Way
from lamer.envs.workers.game import Game
from lamer.envs.workers.worker import WorkerOptions

OPTIONS = WorkerOptions("stubborn:open_stubborn", seconds=5.0, environ=(("PYTHONPATH", str(Path(__file__).parent)),))
"""Its name in the worker processes."""


class StubbornHouse(Game):
    """Notes in the file `asked` of its dataset each time that it is asked."""

    def __init__(self, spec: HouseSpec) -> None:
        self._dataset = Path(spec.dataset)
        self._name = spec.name

    def handle(self, request: bytes) -> bytes:
        asked = self._dataset / "asked"
        is_first = not asked.exists() or self._name not in asked.read_text().split()
        with asked.open("a") as file:
            file.write(f"{self._name}\n")
        if "slow" in self._name:
            time.sleep(3600)
        if "crash" in self._name or ("once" in self._name and is_first):
            os._exit(7)
        if "unreadable" in self._name:
            raise ValueError("no problem at all")
        if isinstance(msgspec.msgpack.decode(request, type=AnyRequest), Reset):
            return msgspec.msgpack.encode(Scene("You see nothing.", ("look",), False))
        return msgspec.msgpack.encode(Way(None if "unsolvable" in self._name else ("look",)))


def open_stubborn(spec: bytes) -> Game:
    return StubbornHouse(msgspec.msgpack.decode(spec, type=HouseSpec))
