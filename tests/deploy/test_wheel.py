"""lamer as a wheel: installed where nothing else of it is, beside folders that bear the names of its packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.tree import CHECKOUT, PACKAGES


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, and a user's folder to work in."""

    wheel: Path
    bin: Path
    work: Path

    def run(self, *command: str) -> str:
        """What a program of the environment prints, started in the user's folder."""
        whole = [str(self.bin / command[0]), *command[1:]]
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            whole, cwd=self.work, env=environ, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "src"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(CHECKOUT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True, timeout=100)
    # What lamer depends on is taken from this environment; its own link to the checkout is not read from there.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    work = folder / "work"
    for name in (*PACKAGES, "tests"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text(f"raise ImportError('this is the {name} of the user')\n")
    return Installed(wheel, python.parent, work)


def test_it_is_imported_beside_a_users_own_folders_of_the_same_names(installed: Installed) -> None:
    names = ", ".join(f"lamer.{name}" for name in PACKAGES)
    where = installed.run(
        "python", "-c", f"import {names}, lamer.envs.base, lamer.actors.worker; print(lamer.envs.base.__file__)"
    )
    assert Path(where).is_relative_to(installed.bin.parent)


def test_its_command_line_and_its_modules_run_and_find_their_files(installed: Installed) -> None:
    assert "experiment" in installed.run("lamer", "--help")
    assert "name: doors" in installed.run("lamer", "config", "show", "-c", "doors.yaml")
    assert "name: minesweeper" in installed.run("lamer", "config", "show", "-c", "paper/minesweeper-lamer.yaml")
    assert "--port" in installed.run("python", "-m", "lamer.deploy.inference.embedded", "--help")


def test_it_brings_one_package_and_every_file_of_the_checkout_that_is_not_a_test(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in held} == {"lamer"}
    kinds = {".py", ".yaml", ".json", ".jinja", ".txt"}
    expected = {
        f"lamer/{path.relative_to(CHECKOUT).as_posix()}"
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*")
        if path.suffix in kinds and "__pycache__" not in path.parts
    }
    assert held == expected | {"lamer/__init__.py", "lamer/py.typed"}
