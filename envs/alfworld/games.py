"""Which games a dataset folder holds, and which one a seed plays.

A dataset has ALFRED's layout: SPLIT/TASK/TRIAL/{initial_state.pddl,traj_data.json}, where TASK starts with its type:
`pick_heat_then_place_in_recep-Mug-None-SideTable-21`. Tasks with sliced or movable things are left out, as ALFWorld
does, and so are the games that the file `unsolvable.txt` names, one SPLIT/TASK/TRIAL a line: compiling the whole
dataset writes it (`envs.alfworld.dataset`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from lamer.common.errors import Missing
from lamer.envs.data import dataset_folder, require_files
from lamer.envs.seeding import task_rng

DATASET = "alfworld"
SPLITS = ("train", "valid_seen", "valid_unseen")
Split = Literal["train", "valid_seen", "valid_unseen"]
TaskType = Literal["pick", "look", "clean", "heat", "cool", "pick_two"]
TASK_TYPES: MappingProxyType[str, str] = MappingProxyType(
    {
        "pick": "pick_and_place_simple",
        "look": "look_at_obj_in_light",
        "clean": "pick_clean_then_place_in_recep",
        "heat": "pick_heat_then_place_in_recep",
        "cool": "pick_cool_then_place_in_recep",
        "pick_two": "pick_two_obj_and_place",
    }
)
IN_DISTRIBUTION: tuple[TaskType, ...] = ("pick", "look", "clean", "heat")
OUT_OF_DISTRIBUTION: tuple[TaskType, ...] = ("cool", "pick_two")
GAME_FILES = ("initial_state.pddl", "traj_data.json")
UNSOLVABLE_FILE = "unsolvable.txt"
_ENGINE_MODULES = ("textworld", "fast_downward", "alfworld")
_LEFT_OUT = ("movable", "Sliced")


@dataclass(frozen=True, slots=True)
class GameFiles:
    """One game of a dataset. name: SPLIT/TASK/TRIAL, below `dataset`."""

    dataset: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where its two files lie."""
        return self.dataset / self.name


def require_engine(find: Callable[[str], object | None] = importlib.util.find_spec) -> None:
    """Check that the packages of the engine are installed, without loading them. find: None for a module not there.

    Raises:
        Missing: one is not; the message says what to run.
    """
    lacking = [name for name in _ENGINE_MODULES if find(name) is None]
    if lacking:
        raise Missing(
            f"env.name = 'alfworld': its engine is not installed, {', '.join(lacking)} can't be imported; run "
            "`pip install 'textworld[pddl]==1.7.0'` and `pip install --no-deps alfworld==0.4.2`"
        )


def find_games(data: str, split: str, tasks: tuple[TaskType, ...]) -> tuple[GameFiles, ...]:
    """The games of a split of these task types, in the order in which seeds play them: mixed, the same everywhere.

    data: the dataset's folder, "" for the common place.

    Raises:
        Missing: there is no such split, or it has no game of these types.
    """
    return _find_games(dataset_folder(DATASET, data), split, tuple(sorted(tasks)))


@functools.lru_cache(maxsize=32)
def _find_games(dataset: Path, split: str, tasks: tuple[str, ...]) -> tuple[GameFiles, ...]:
    require_files(DATASET, dataset, (split,))
    unsolvable = _unsolvable(dataset)
    wanted = {TASK_TYPES[task] for task in tasks}
    names = [
        name
        for name in game_names(dataset, split)
        if name.split("/")[1].partition("-")[0] in wanted and name not in unsolvable
    ]
    if not names:
        raise Missing(
            f"alfworld: {dataset / split} holds no game of the types {', '.join(tasks)} (env.options.tasks); "
            "run `lamer data fetch alfworld`, or `lamer data import alfworld DIR` with the files at hand"
        )
    task_rng("alfworld", split, *tasks).shuffle(names)
    return tuple(GameFiles(dataset, name) for name in names)


def forget_games() -> None:
    """Look again at the next `find_games`: a dataset has changed."""
    _find_games.cache_clear()


def game_names(dataset: Path, split: str) -> list[str]:
    """SPLIT/TASK/TRIAL of every game of a split that has both files, sorted; those that ALFWorld leaves out aside."""
    root = dataset / split
    if not root.is_dir():
        return []
    return sorted(
        f"{split}/{task}/{trial}"
        for task in os.listdir(root)
        if not any(word in task for word in _LEFT_OUT) and (root / task).is_dir()
        for trial in os.listdir(root / task)
        if all((root / task / trial / file).is_file() for file in GAME_FILES)
    )


def _unsolvable(dataset: Path) -> frozenset[str]:
    path = dataset / UNSOLVABLE_FILE
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()
