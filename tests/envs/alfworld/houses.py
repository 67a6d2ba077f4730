"""Games to test with: a hand-made house, the real games where they are at hand, and a house without an engine."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from lamer.common.records import Task
from lamer.envs import registry
from lamer.envs.alfworld.env import AlfworldEnv
from lamer.envs.alfworld.games import GameFiles
from lamer.envs.alfworld.houses import House
from lamer.envs.alfworld.messages import Scene

needs_engine = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("textworld", "fast_downward", "alfworld")),
    reason="the engine is not installed: pip install 'textworld[pddl]==1.7.0', pip install --no-deps alfworld==0.4.2",
)

# A desk with a mug, an empty shelf, a drawer with a key. The task: put the mug on the shelf.
PROBLEM = """
(define (problem hand_made)
(:domain alfred)
(:objects
    agent1 - agent
    Mug_bar_1 - object
    KeyChain_bar_1 - object
    MugType - otype
    KeyChainType - otype
    DeskType - rtype
    ShelfType - rtype
    DrawerType - rtype
    Desk_bar_1 - receptacle
    Shelf_bar_1 - receptacle
    Drawer_bar_1 - receptacle
    loc_bar_0 - location
    loc_bar_1 - location
    loc_bar_2 - location
    loc_bar_3 - location
)
(:init
    (= (total-cost) 0)
    (atLocation agent1 loc_bar_0)
    (receptacleAtLocation Desk_bar_1 loc_bar_1)
    (receptacleAtLocation Shelf_bar_1 loc_bar_2)
    (receptacleAtLocation Drawer_bar_1 loc_bar_3)
    (receptacleType Desk_bar_1 DeskType)
    (receptacleType Shelf_bar_1 ShelfType)
    (receptacleType Drawer_bar_1 DrawerType)
    (openable Drawer_bar_1)
    (canContain DeskType MugType)
    (canContain ShelfType MugType)
    (canContain DeskType KeyChainType)
    (objectType Mug_bar_1 MugType)
    (objectType KeyChain_bar_1 KeyChainType)
    (pickupable Mug_bar_1)
    (pickupable KeyChain_bar_1)
    (inReceptacle Mug_bar_1 Desk_bar_1)
    (objectAtLocation Mug_bar_1 loc_bar_1)
    (inReceptacle KeyChain_bar_1 Drawer_bar_1)
    (objectAtLocation KeyChain_bar_1 loc_bar_3)
)
(:goal (and (exists (?r - receptacle) (exists (?o - object) (and
    (objectType ?o MugType) (receptacleType ?r ShelfType) (inReceptacle ?o ?r))))))
)
"""
UNSOLVABLE = PROBLEM.replace("(canContain ShelfType MugType)", "")
SOLVED = PROBLEM.replace("(inReceptacle Mug_bar_1 Desk_bar_1)", "(inReceptacle Mug_bar_1 Shelf_bar_1)")
TRAJECTORY = {
    "task_type": "pick_and_place_simple",
    "pddl_params": {
        "object_target": "Mug",
        "parent_target": "Shelf",
        "mrecep_target": "",
        "toggle_target": "",
        "object_sliced": False,
    },
}
GAME = "pick_and_place_simple-Mug-None-Shelf-1/trial_1"


def write_game(dataset: Path, name: str = f"train/{GAME}", problem: str = PROBLEM) -> GameFiles:
    """A game in ALFRED's layout."""
    folder = dataset / name
    folder.mkdir(parents=True)
    (folder / "initial_state.pddl").write_text(problem)
    (folder / "traj_data.json").write_text(json.dumps(TRAJECTORY))
    return GameFiles(dataset, name)


def make(options: Mapping[str, object], seed: int = 0) -> AlfworldEnv:
    env = registry.make_env(Task("alfworld", registry.canonical_config("alfworld", options), seed))
    assert isinstance(env, AlfworldEnv)
    return env


def unpack_mini(shared: Path, folder: Path) -> Path:
    """The 36 real games as a dataset's folder; skips where they are not at hand."""
    archive = shared / "data" / "alfworld" / "alfworld_mini_36.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} in the shared data: the real games are not part of the project")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / "json_2.1.1"


class DollsHouse(House):
    """A house without an engine: a desk with a mug that can be taken, which solves the task."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.is_closed = False

    def reset(self) -> Scene:
        self.taken = []
        return Scene(
            "-= Welcome =-\n\nYou see a desk 1.\n\nYour task is to: take a mug.", ("go to desk 1", "look"), False
        )

    async def reset_async(self) -> Scene:
        return self.reset()

    def step(self, command: str) -> Scene:
        self.taken.append(command)
        if command == "go to desk 1":
            return Scene("You arrive at desk 1.", ("look", "take mug 1 from desk 1"), False)
        return Scene(f"You {command}.", ("look",), command.startswith("take"))

    async def step_async(self, command: str) -> Scene:
        return self.step(command)

    def close(self) -> None:
        self.is_closed = True
