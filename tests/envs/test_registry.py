"""The registry: names, options and their ranges, canonical configurations, environments of other packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.common.records import Task
from lamer.common.settings import Prompting
from lamer.envs import registry
from lamer.envs.base import PlayView

PACKAGE = """
import random
from dataclasses import dataclass
from lamer.envs.base import *

@dataclass(frozen=True)
class MazeConfig:
    size: int = 3

class MazeEnv(Env):
    max_turns = 4
    def __init__(self, size): self.size = size
    def reset(self): return Observation(f"maze {self.size}", f"{self.size}")
    def step(self, response): raise NotImplementedError
    def play_prompt(self, view): return ""
    def reflection_prompt(self, view): return ""
    def parse_reflection(self, response): return None
    def random_response(self, rng): return ""
    def random_reflection(self, rng): return ""

class MazeFactory(EnvFactory):
    name = "maze"
    config_class = MazeConfig
    def make(self, config, seed): return MazeEnv(config.size)

FACTORY = MazeFactory()
"""


def install(folder: Path, entry_points: str, source: str = PACKAGE) -> None:
    """What a package manager leaves behind for a package with an entry point."""
    (folder / "maze_package.py").write_text(source)
    info = folder / "maze_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maze-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lamer.envs]\n{entry_points}\n")
    registry.installed_target.cache_clear()  # a process looks once, and was there before this package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "maze_package", raising=False)
    return tmp_path


def test_built_in_environments_are_listed() -> None:
    assert {"doors", "minesweeper", "sokoban", "alfworld"} <= set(registry.names())


def test_an_unknown_name_is_refused_with_the_closest_one() -> None:
    with pytest.raises(BadInput, match=r"'dors'.*did you mean 'doors'"):
        registry.get("dors")


def test_an_unknown_option_is_refused_with_its_full_key_and_the_closest_one() -> None:
    with pytest.raises(BadInput, match=r"env\.options\.dors.*did you mean 'doors'"):
        registry.decode_config("doors", {"dors": 5})


@pytest.mark.parametrize("value", [1, 100, "5", 5.5, True, None])
def test_an_option_out_of_its_range_or_of_another_type_is_refused_with_its_value(value: object) -> None:
    with pytest.raises(BadInput, match=r"env\.options\.doors = "):
        registry.decode_config("doors", {"doors": value})


@pytest.mark.parametrize("name", ["doors", "minesweeper", "sokoban", "alfworld"])
def test_a_canonical_configuration_holds_all_defaults_and_decodes_to_itself(name: str) -> None:
    canonical = registry.canonical_config(name, {})
    options = json.loads(canonical)
    assert canonical == json.dumps(options, sort_keys=True, separators=(",", ":"))
    assert registry.canonical_config(name, options) == canonical


def test_options_given_in_another_order_or_as_defaults_are_the_same_task_configuration() -> None:
    first = registry.canonical_config("minesweeper", {"mines": 3, "board": 5})
    assert first == registry.canonical_config("minesweeper", {"board": 5})


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_task_whose_configuration_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="'doors'"):
        registry.make_env(Task("doors", text, 0))


@pytest.mark.parametrize("name", ["doors", "minesweeper", "sokoban"])
def test_full_prompts_ask_for_reasoning_or_for_the_action_alone_and_compact_ones_never_for_reasoning(name: str) -> None:
    def ask(prompt: str, prompting: Prompting) -> str:
        env = registry.make_env(Task(name, registry.canonical_config(name, {"prompt": prompt}), 0))
        board = env.reset().text
        return env.play_prompt(PlayView(board, board, past="", current="", episode=0, turn=0, prompting=prompting))

    full = {prompting: ask("full", prompting) for prompting in Prompting}
    assert all("<action>" in text and "</action>" in text for text in full.values())
    assert "step by step" in full[Prompting.REACT]
    assert "step by step" not in full[Prompting.ACT]
    assert full[Prompting.REACT].splitlines()[0] == full[Prompting.ACT].splitlines()[0], "the same rules"
    assert ask("compact", Prompting.REACT) == ask("compact", Prompting.ACT)


def test_references_come_from_the_environment() -> None:
    found = registry.references("doors", registry.canonical_config("doors", {}), episodes=3)
    assert found[0].name == "best policy"
    assert found[0].pass_at == pytest.approx((0.2, 0.6, 1.0))


def test_an_environment_of_an_installed_package_is_found_and_made(site: Path) -> None:
    install(site, "maze = maze_package:FACTORY")
    assert "maze" in registry.names()
    task = Task("maze", registry.canonical_config("maze", {"size": 4}), seed=0)
    assert registry.make_env(task).reset().text == "maze 4"


def test_the_installed_packages_are_looked_through_once_and_not_for_every_trial(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "maze = maze_package:FACTORY")
    looked: list[str] = []
    find = importlib.metadata.entry_points

    def look(*, group: str) -> importlib.metadata.EntryPoints:
        looked.append(group)
        return find(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", look)
    for seed in range(3):
        registry.make_env(Task("maze", registry.canonical_config("maze", {}), seed))
    assert looked == [registry.ENTRY_POINT_GROUP]


def test_an_installed_environment_that_cannot_be_imported_is_named_in_the_error(site: Path) -> None:
    install(site, "maze = maze_package:ABSENT")
    with pytest.raises(Missing, match=r"'maze'.*maze_package:ABSENT"):
        registry.get("maze")


def test_an_environment_that_imports_ours_by_the_names_of_0_1_is_told_the_new_ones(site: Path) -> None:
    install(site, "old = old_maze:FACTORY")
    (site / "old_maze.py").write_text("from envs.base import Env\n")
    with pytest.raises(Missing, match=r"'old'.*since lamer 0\.2 envs\.base is imported as lamer\.envs\.base"):
        registry.get("old")
    (site / "common").mkdir()
    (site / "old_maze.py").write_text("from common import records\n")
    with pytest.raises(Missing, match=r"'old'.*common is imported as lamer\.common"):
        registry.get("old")
    (site / "old_maze.py").write_text("import numpy.nowhere\n")
    with pytest.raises(Missing, match=r"numpy\.nowhere") as other:
        registry.get("old")
    assert "lamer 0.2" not in str(other.value)


def test_an_installed_object_that_is_no_factory_is_refused(site: Path) -> None:
    install(site, "maze = maze_package:MazeEnv")
    with pytest.raises(BadInput, match="EnvFactory"):
        registry.get("maze")


def test_two_environments_of_one_name_are_refused(site: Path) -> None:
    install(site, "doors = maze_package:FACTORY")
    with pytest.raises(BadInput, match="two environments are called 'doors'"):
        registry.names()


def test_importing_the_registry_imports_no_environment() -> None:
    loaded = "[name for name in sys.modules if name.startswith('lamer.envs.') and name.count('.') > 2]"
    code = f"import sys, lamer.envs.registry; print({loaded})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


STATES = """
import json, sys
from lamer.common.records import Task
from lamer.common.settings import Prompting
from lamer.envs import registry
from lamer.envs.base import PlayView
for env, config, seed in json.load(sys.stdin):
    print(json.dumps(registry.make_env(Task(env, config, seed)).reset().text))
"""


def test_the_same_task_starts_equal_in_another_process_with_another_hash_seed() -> None:
    cases: list[tuple[str, dict[str, object]]] = [
        ("minesweeper", {}),
        ("minesweeper", {"board": 4, "mines": 2, "prompt": "compact"}),
        ("sokoban", {}),
        ("sokoban", {"rows": 7, "cols": 8, "boxes": 1}),
    ]
    tasks = [(name, registry.canonical_config(name, options), seed) for name, options in cases for seed in range(5)]
    here = [registry.make_env(Task(*task)).reset().text for task in tasks]
    environ = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run(
        [sys.executable, "-c", STATES], env=environ, input=json.dumps(tasks), capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in result.stdout.splitlines()] == here
    assert len(set(here)) > len(here) // 2
