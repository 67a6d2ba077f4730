"""A hand-made house in the real engine: what it says, what is compiled and kept, restarts, crashes, other processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lamer.envs.alfworld.compiled import read_compiled
from lamer.envs.alfworld.dataset import compile_dataset
from lamer.envs.alfworld.env import AlfworldEnv
from lamer.envs.alfworld.factory import FACTORY, AlfworldConfig
from lamer.envs.alfworld.games import GameFiles, TaskType, find_games
from lamer.envs.alfworld.houses import WORKER, House, house_pool
from lamer.envs.alfworld.prompts import FullStyle
from lamer.envs.base import EnvironmentFault
from lamer.envs.workers.pool import PoolLimits, WorkerPool, close_shared
from tests.envs.alfworld.houses import GAME, SOLVED, UNSOLVABLE, make, needs_engine, unpack_mini, write_game

pytestmark = needs_engine
SOLUTION = ("go to desk 1", "take mug 1 from desk 1", "go to shelf 1", "move mug 1 to shelf 1")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """The workers of this process, as environments use them."""
    yield house_pool()
    close_shared()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alfworld")
    write_game(folder)
    return folder


def test_a_house_is_seen_searched_and_its_task_done(pool: WorkerPool, dataset: Path) -> None:
    env = make({"data": str(dataset), "tasks": ["pick"]})
    first = env.reset()
    assert "you see a desk 1, a drawer 1, and a shelf 1" in first.text
    assert first.text.endswith(("Your task is to: put a mug in shelf.", "Your task is to: put some mug on shelf."))
    assert env.scene.commands == ("go to desk 1", "go to drawer 1", "go to shelf 1", "inventory", "look")
    assert (
        env.step("<action>go to drawer 1</action>").observation.text
        == "You arrive at drawer 1. The drawer 1 is closed."
    )
    opened = env.step("<action>open drawer 1</action>").observation.text
    assert "keychain 1" in opened
    plan = env.plan()
    assert plan == SOLUTION
    results = [env.step(env.answer(command)) for command in plan]
    assert [result.is_solved for result in results] == [False, False, False, True]
    assert results[-1].reward == 10.0
    assert env.reset() == first, "the mug is back on the desk"
    assert env.plan() == SOLUTION
    env.close()


@pytest.mark.timeout(300)
def test_textworld_as_it_comes_says_the_same(pool: WorkerPool, dataset: Path) -> None:
    compare(make({"data": str(dataset), "tasks": ["pick"]}), GameFiles(dataset, f"train/{GAME}"))


CLOSING = """
import msgspec, sys
from pathlib import Path
from lamer.envs.alfworld.compiling import compile_game
from lamer.envs.alfworld.engine import Engine
from lamer.envs.alfworld.games import GameFiles
game = msgspec.to_builtins(compile_game(GameFiles(Path(sys.argv[1]), sys.argv[2])))
first, second = Engine(game), Engine(game)
first.reset(), second.reset()
second.close()
third = Engine(game)
for engine in (first, third):
    engine.reset()
    print(len(engine.plan()))
"""


@pytest.mark.timeout(300)
def test_a_process_outlives_the_games_that_it_closed(dataset: Path) -> None:
    # Unloading a copy of the planner's library ends the process later on, at its end at the latest (exit code -11).
    command = [sys.executable, "-c", CLOSING, str(dataset), f"train/{GAME}"]
    environ = {**os.environ, "ALFWORLD_DATA": tempfile.gettempdir()}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["4", "4"]), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_textworld_as_it_comes_says_the_same_in_real_houses(
    pool: WorkerPool, shared: Path, tmp_path: Path, seed: int
) -> None:
    dataset = unpack_mini(shared, tmp_path)
    tasks: tuple[TaskType, ...] = ("clean", "heat", "cool", "pick_two")
    files = find_games(str(dataset), "valid_unseen", tasks)[seed]
    compare(make({"data": str(dataset), "split": "valid_unseen", "tasks": list(tasks)}, seed), files)


def compare(env: AlfworldEnv, files: GameFiles) -> None:
    """Play at random, then to the goal, and have TextWorld without our changes repeat it."""
    rng = random.Random(0)
    env.reset()
    seen, commands = [[env.scene.text, list(env.scene.commands)]], []
    for _ in range(10):
        commands.append(rng.choice(env.scene.commands))
        env.step(env.answer(commands[-1]))
        seen.append([env.scene.text, list(env.scene.commands)])
    for command in env.plan():
        commands.append(command)
        env.step(env.answer(command))
        seen.append([env.scene.text, list(env.scene.commands)])
    env.close()
    game = read_compiled(files)
    assert game is not None
    request = json.dumps({"game": msgspec.to_builtins(game), "commands": commands})
    command = [sys.executable, str(Path(__file__).with_name("stock.py"))]
    environ = {**os.environ, "ALFWORLD_DATA": tempfile.gettempdir()}
    done = subprocess.run(command, input=request, env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == seen


@pytest.mark.timeout(300)
async def test_another_process_shows_the_same_and_a_killed_one_ends_its_episode(
    pool: WorkerPool, dataset: Path
) -> None:
    env = make({"data": str(dataset), "tasks": ["pick"]})
    seen = [await env.start()]
    seen += [(await env.play(env.answer(command))).observation for command in SOLUTION]
    other_pool = WorkerPool(WORKER, PoolLimits(workers=1))
    try:
        files = write_game(dataset.parent / f"{dataset.name}-copy")  # not compiled yet, in a process with other hashes
        other = AlfworldEnv(House(files, lambda: other_pool), FullStyle(), max_turns=10)
        assert await other.start() == seen[0]
        assert [(await other.play(other.answer(command))).observation for command in SOLUTION] == seen[1:]
        os.kill(other_pool.pids()[0], signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match=r"open_house died"):
            await other.play("<action>look</action>")
        assert other_pool.counts().crashed == 1
    finally:
        other_pool.close()
    env.close()


def test_games_are_compiled_once_and_those_without_a_solution_are_left_out(pool: WorkerPool, tmp_path: Path) -> None:
    for trial in ("trial_1", "trial_2"):
        write_game(tmp_path, f"train/pick_and_place_simple-Mug-None-Shelf-1/{trial}")
    bad = write_game(tmp_path, "train/pick_and_place_simple-Mug-None-Shelf-1/trial_3", UNSOLVABLE)
    done = write_game(tmp_path, "train/pick_and_place_simple-Mug-None-Shelf-1/trial_4", SOLVED)
    counted: list[tuple[int, int]] = []
    assert FACTORY.references(AlfworldConfig(str(tmp_path)), 2) == (), "not solved yet"
    found = compile_dataset(tmp_path, lambda done, total: counted.append((done, total)))
    assert (found.games, found.unsolvable, found.unanswered) == (4, (bad.name,), ())
    assert counted == [(1, 4), (2, 4), (3, 4), (4, 4)]
    compiled = sorted((tmp_path / "compiled").rglob("*.json"))
    assert [path.stem for path in compiled] == ["trial_1", "trial_2", "trial_3", "trial_4"]
    house = House(done)
    assert house.reset().is_solved
    assert house.plan() == (), "nothing is left to do, which is not the same as no way"
    house.close()
    game = msgspec.json.decode(compiled[0].read_bytes())
    assert game["solvable"] is True
    assert tuple(game["walkthrough"]) == SOLUTION
    assert "put a mug in shelf" in game["grammar"] or "put some mug on shelf" in game["grammar"]
    assert "UNKNOWN GOAL" not in game["grammar"]
    assert FACTORY.references(AlfworldConfig(str(tmp_path)), 2)[0].pass_at == (1.0, 1.0), "of the games that are left"
    assert FACTORY.references(AlfworldConfig(str(tmp_path), max_turns=3), 1)[0].pass_at == (1 / 3,)
    times = [path.stat().st_mtime_ns for path in compiled]
    assert compile_dataset(tmp_path).unsolvable == (bad.name,)
    assert [path.stat().st_mtime_ns for path in compiled] == times
    env = make({"data": str(tmp_path), "tasks": ["pick"]}, seed=2)
    assert env.reset().text == make({"data": str(tmp_path), "tasks": ["pick"]}, seed=0).reset().text
    env.close()


def test_a_game_that_cannot_be_read_is_a_fault_that_names_it(pool: WorkerPool, tmp_path: Path) -> None:
    files = write_game(tmp_path, f"train/{GAME}", problem="(define (problem broken)")
    (files.folder / "traj_data.json").write_text("{}")
    env = make({"data": str(tmp_path), "tasks": ["pick"]})
    with pytest.raises(EnvironmentFault, match=r"traj_data\.json does not describe a task"):
        env.reset()
    env.close()
