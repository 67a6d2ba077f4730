"""ALFRED's files of a game -> what the engine loads. Only a worker imports this.

    compile_game   enough to play; whether it can be solved stays open
    solve_game     the planner looks for a solution as well, which mostly takes less than a second and at times a minute

A game is written whole or not at all. Where the dataset's folder can't be written, games are compiled anew each time,
which costs little without a solution.

ALFWorld draws the wording of the goal ("put a mug in desk", "put some mug on desk") from the global random generator;
it is seeded here with the game's name, so that a game has one goal text everywhere.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import random
import tempfile
from pathlib import Path

import msgspec
from alfworld.agents.utils.misc import add_task_to_grammar

from lamer.common.text import valid_text
from lamer.envs.alfworld.compiled import CompiledGame, compiled_path, read_compiled
from lamer.envs.alfworld.engine import Engine, NoWay
from lamer.envs.alfworld.games import GameFiles
from lamer.envs.base import EnvironmentFault
from lamer.envs.seeding import task_rng

log = logging.getLogger("lamer.worker")


def compile_game(game: GameFiles) -> CompiledGame:
    """What the engine loads for a game.

    Raises:
        EnvironmentFault: its files can't be read, or describe no task.
    """
    return read_compiled(game) or _keep(compiled_path(game), _compile(game))


def solve_game(game: GameFiles) -> CompiledGame:
    """The compiled game, with the planner's answer.

    Raises:
        EnvironmentFault: its files can't be read, or describe no task.
    """
    compiled = compile_game(game)
    if compiled.solvable is not None:
        return compiled
    walkthrough = _plan(compiled)
    if walkthrough is None:
        log.warning("alfworld: the planner finds no solution of %s", game.name)
    solved = msgspec.structs.replace(compiled, solvable=walkthrough is not None, walkthrough=walkthrough or ())
    return _keep(compiled_path(game), solved)


def _plan(compiled: CompiledGame) -> tuple[str, ...] | None:
    try:
        engine = Engine(msgspec.to_builtins(compiled))
    except NoWay:
        return None
    try:
        engine.reset()
        return engine.plan()
    finally:
        engine.close()


def _compile(game: GameFiles) -> CompiledGame:
    domain, grammar = _logic()
    try:
        problem = (game.folder / "initial_state.pddl").read_text(encoding="utf-8", errors="replace")
        trajectory = json.loads((game.folder / "traj_data.json").read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"alfworld: the game {game.folder} can't be read: {error}") from error
    return CompiledGame(domain, _with_task(grammar, trajectory, game), problem)


def _keep(path: Path, compiled: CompiledGame) -> CompiledGame:
    try:
        _write_whole(path, msgspec.json.encode(compiled))
    except OSError as error:
        log.warning("compiled games can't be kept: %s", error)
    return compiled


def _with_task(grammar: str, trajectory: object, game: GameFiles) -> str:
    """The grammar with the goal's text in it."""
    random.seed(task_rng("alfworld", game.name).getrandbits(64))
    try:
        return valid_text(str(add_task_to_grammar(grammar, trajectory)))
    except (KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"alfworld: {game.folder / 'traj_data.json'} does not describe a task: {error!r}"
        ) from error


@functools.cache
def _logic() -> tuple[str, str]:
    """The rules of the house (PDDL) and the grammar of its texts, as alfworld ships them."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault("alfworld: the package alfworld is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return (folder / "alfred.pddl").read_text(encoding="utf-8"), (folder / "alfred.twl2").read_text(encoding="utf-8")


def _write_whole(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
