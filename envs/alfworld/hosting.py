"""A game as a worker process hosts it. Only a worker imports this, for it loads the engine."""

from __future__ import annotations

import msgspec

from lamer.envs.alfworld.compiling import compile_game, solve_game
from lamer.envs.alfworld.engine import Engine
from lamer.envs.alfworld.games import GameFiles
from lamer.envs.alfworld.messages import AnyRequest, HouseSpec, Plan, Reset, Solve, Step, Way
from lamer.envs.workers.game import Game

_DECODER: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)


class House(Game):
    """One game, loaded by its first request."""

    def __init__(self, files: GameFiles) -> None:
        self._files = files
        self._engine: Engine | None = None

    def handle(self, request: bytes) -> bytes:
        """Answer a request."""
        match _DECODER.decode(request):
            case Reset():
                return msgspec.msgpack.encode(self._loaded().reset())
            case Step(command):
                return msgspec.msgpack.encode(self._loaded().step(command))
            case Plan():
                return msgspec.msgpack.encode(Way(self._loaded().plan()))
            case Solve():
                solved = solve_game(self._files)
                return msgspec.msgpack.encode(Way(solved.walkthrough if solved.solvable else None))

    def close(self) -> None:
        """Unload the game."""
        if self._engine is not None:
            self._engine.close()

    def _loaded(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(msgspec.to_builtins(compile_game(self._files)))
        return self._engine


def open_house(spec: bytes) -> Game:
    """A game of ALFWorld: what a worker calls."""
    return House(msgspec.msgpack.decode(spec, type=HouseSpec).files)
