"""`lamer data` as a user meets it: what it prints, where it puts things, how it exits."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lamer.deploy.cli import app
from lamer.deploy.doctor import datasets
from lamer.envs.datasets.definition import Source
from lamer.envs.datasets.download import Downloader
from lamer.envs.datasets.filling import find
from tests.envs.archives import ATTRIBUTES, INSTRUCTIONS, PRODUCTS, game, write_files, write_zip
from tests.envs.file_server import FileServer, serving_files

SHOP = {
    "items_shuffle_1000.json": PRODUCTS,
    "items_ins_v2_1000.json": ATTRIBUTES,
    "items_human_ins.json": INSTRUCTIONS,
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where datasets lie."""
    monkeypatch.setenv("LAMER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "data"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with a small shop whose files the datasets take for the official ones."""
    sources = tuple(Source(name, (), len(body), hashlib.sha256(body).hexdigest()) for name, body in SHOP.items())
    monkeypatch.setattr(find("webshop"), "sources", sources, raising=False)
    with serving_files(SHOP) as server:
        yield server


def lamer(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="lamer")


def test_check_names_what_is_missing_and_which_command_brings_it() -> None:
    result = lamer("data", "check", "webshop")
    assert result.exit_code == 3
    assert result.stderr == (
        "lamer: webshop: items_shuffle_1000.json missing, items_ins_v2_1000.json missing; "
        "run `lamer data fetch webshop`, or `lamer data import webshop DIR`\n"
    )
    both = lamer("data", "check")
    assert both.exit_code == 3
    assert "valid_unseen missing" in both.stderr
    assert "lamer data fetch webshop" in both.stderr


def test_import_then_check_is_fine_and_says_sizes_and_hashes(tmp_path: Path, root: Path) -> None:
    result = lamer("data", "import", "webshop", str(write_files(tmp_path / "in", SHOP)))
    assert result.exit_code == 0, result.stderr
    assert f"webshop: 3 files placed in {root / 'webshop'}" in result.stdout
    checked = lamer("data", "check", "webshop")
    assert checked.exit_code == 0
    (line,) = [line for line in checked.stdout.splitlines() if "items_ins_v2_1000.json" in line]
    assert line.split()[1:4] == ["kept", str(len(ATTRIBUTES)), hashlib.sha256(ATTRIBUTES).hexdigest()[:16]]


def test_import_takes_several_archives_and_another_folder(tmp_path: Path) -> None:
    halves = {
        end: {name: body for name, body in game("train").items() if name.endswith(end)} for end in ("json", "pddl")
    }
    archives = [str(write_zip(tmp_path / f"{end}.zip", half)) for end, half in halves.items()]
    result = lamer("data", "import", "alfworld", *archives, "--folder", str(tmp_path / "games"))
    assert (result.exit_code, "2 files placed" in result.stdout) == (0, True), result.stderr
    assert lamer("data", "check", "alfworld", "--folder", str(tmp_path / "games")).exit_code == 3, "two splits lack"


def test_import_of_something_else_exits_with_two_and_of_nothing_with_three(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {"x.json": b"{}"})
    assert lamer("data", "import", "webshop", str(tmp_path / "in")).exit_code == 2
    assert lamer("data", "import", "webshop", str(tmp_path / "nowhere")).exit_code == 3
    assert lamer("data", "import", "webshops", str(tmp_path / "in")).exit_code == 2


def test_fetch_brings_what_lacks_from_a_mirror_and_a_second_call_nothing(mirror: FileServer, root: Path) -> None:
    mirror.cuts = [10]
    result = lamer("data", "fetch", "webshop", "--mirror", mirror.url)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in (root / "webshop").iterdir() if path.name.startswith("items")} == set(SHOP)
    assert not (root / "webshop" / "downloads").exists()
    assert mirror.ranges == ["", "bytes=10-", "", ""]
    assert f"items_shuffle_1000.json, {len(PRODUCTS)} bytes" in result.stdout


def test_fetch_of_a_file_that_is_not_there_keeps_the_others_for_the_next_call(mirror: FileServer, root: Path) -> None:
    del mirror.files["items_human_ins.json"]
    result = lamer("data", "fetch", "webshop", "--mirror", mirror.url)
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert "items_human_ins.json can't be fetched" in line
    assert "HTTP 404" in line
    assert "lamer data import webshop DIR" in line
    assert not (root / "webshop" / "items_shuffle_1000.json").exists(), "nothing is placed before all is there"
    mirror.files.update(SHOP)
    mirror.ranges.clear()
    assert lamer("data", "fetch", "webshop", "--mirror", mirror.url).exit_code == 0
    assert mirror.ranges == [""]


def test_fetch_without_a_network_is_one_line_and_three(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = find("webshop")
    nowhere = tuple(dataclasses.replace(source, urls=("http://127.0.0.1:9/x",)) for source in shop.sources)
    monkeypatch.setattr(shop, "sources", nowhere, raising=False)
    monkeypatch.setattr(datasets, "Downloader", functools.partial(Downloader, wait=0.001))
    result = lamer("data", "fetch", "webshop")
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert "can't be reached (Connection refused)" in line
    assert "lamer data import webshop DIR" in line


def test_only_one_process_fills_a_folder(tmp_path: Path, root: Path) -> None:
    (root / "webshop").mkdir(parents=True)
    with (root / "webshop" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = lamer("data", "import", "webshop", str(write_files(tmp_path / "in", SHOP)))
    assert (result.exit_code, "another `lamer data` is filling" in result.stderr) == (2, True)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ("--folder", str(tmp_path / "file" / "shop"))
    result = lamer("data", "import", "webshop", str(write_files(tmp_path / "in", SHOP)), *arguments)
    assert (result.exit_code, "can't be written to" in result.stderr) == (3, True)


def test_a_mirror_that_is_no_address_is_refused() -> None:
    assert lamer("data", "fetch", "webshop", "--mirror", "somewhere").exit_code == 2


def test_what_arrived_is_compiled_when_that_is_asked_for(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compiler_package.py").write_text(
        "from types import SimpleNamespace\n"
        "def compile_dataset(folder, progress):\n"
        "    progress(1, 1)\n"
        "    (folder / 'made').touch()\n"
        "    slow = SimpleNamespace(name='slow', reason='it took too long')\n"
        "    return SimpleNamespace(games=7, unsolvable=('one',), unanswered=(slow,))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(datasets, "COMPILERS", {"alfworld": ("compiler_package", "compile_dataset")})
    arguments = ("data", "import", "alfworld", str(write_files(tmp_path / "in", game("train"))))
    assert "when it is first played, or now with --compile" in lamer(*arguments).stdout
    assert not (root / "alfworld" / "made").exists()
    result = lamer(*arguments, "--compile")
    assert (result.exit_code, "7 games compiled, 1 can't be solved" in result.stdout) == (0, True), result.stderr
    assert "of 1 games the planner did not say; they stay in play" in result.stdout
    assert "(first slow: it took too long)" in result.stdout
    assert (root / "alfworld" / "made").exists()


def test_compiling_without_what_it_takes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "COMPILERS", {"alfworld": ("no_such_package.games", "compile_dataset")})
    games = str(write_files(tmp_path / "in", game("train")))
    result = lamer("data", "import", "alfworld", games, "--compile")
    assert (result.exit_code, "No module named 'no_such_package'" in result.stderr) == (3, True)
    shop = str(write_files(tmp_path / "shop", SHOP))
    assert lamer("data", "import", "webshop", shop, "--compile").exit_code == 2
