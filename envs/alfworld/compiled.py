"""Compiled games, and where they are kept: DATASET/compiled/alfworld-VERSION/SPLIT/TASK/TRIAL.json."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path

import msgspec

from lamer.envs.alfworld.games import GameFiles

log = logging.getLogger("lamer.env")

CACHE = "compiled"


class CompiledGame(msgspec.Struct, frozen=True):
    """A game as TextWorld loads it. solvable: None until the planner was asked. walkthrough: its solution, else ()."""

    pddl_domain: str
    grammar: str
    pddl_problem: str
    solvable: bool | None = None
    walkthrough: tuple[str, ...] = ()


def compiled_path(game: GameFiles) -> Path:
    """Where a compiled game is kept."""
    version = importlib.metadata.version("alfworld")
    return game.dataset / CACHE / f"alfworld-{version}" / f"{game.name}.json"


def read_compiled(game: GameFiles) -> CompiledGame | None:
    """The compiled game where it is kept; None where it is not, or what is there can't be read."""
    path = compiled_path(game)
    try:
        return msgspec.json.decode(path.read_bytes(), type=CompiledGame)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("%s is no compiled game, it is made again: %s", path, error)
        return None
