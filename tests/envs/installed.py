"""What a package manager leaves behind for a package with an environment, for tests of environments that others add."""

from __future__ import annotations

from pathlib import Path

from lamer.envs import registry

VAULT = """
import random
from dataclasses import dataclass
from lamer.envs.base import *
from lamer.envs.data import dataset_folder, require_files

@dataclass(frozen=True)
class VaultConfig:
    data: str = ""
    split: str = "train"

class VaultEnv(Env):
    max_turns = 2
    windows = MemoryWindows(MemoryWindow(2, 1), MemoryWindow(2, 2), MemoryWindow(2, 1))
    def reset(self): return Observation("a vault", "closed")
    def step(self, response): return StepResult("turn", Observation("a vault", "closed"), 0.0, False, False)
    def play_prompt(self, view): return view.observation + " <action>turn</action>"
    def reflection_prompt(self, view): return "why?"
    def parse_reflection(self, response): return None
    def random_response(self, rng): return "<action>turn</action>"
    def random_reflection(self, rng): return "<remark>none</remark>"

class VaultFactory(EnvFactory):
    name = "vault"
    config_class = VaultConfig
    def make(self, config, seed): return VaultEnv()
    def check_data(self, config):
        require_files("vault", dataset_folder("vault", config.data), (config.split, "codes.json"))

FACTORY = VaultFactory()
"""
"""An environment whose data has to be brought: a folder named like its split, and codes.json."""


def install(folder: Path, entry_points: str, module: str, source: str) -> None:
    """Put a module and its entry points in group `lamer.envs` into a folder of the import path."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lamer.envs]\n{entry_points}\n")
    registry.installed_target.cache_clear()  # a process looks once, and was there before this package
