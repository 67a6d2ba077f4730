"""An environment without its data: every command says in one line what to run, exits 3, and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lamer.deploy.cli import app
from tests.envs.installed import VAULT, install

CONFIG = "env: {name: vault}\nevaluation: {tasks: 4, split: hard}\n"
ADVICE = "run `lamer data fetch vault`, or `lamer data import vault DIR` with the files at hand"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, the environment installed, its data expected under data/."""
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    install(site, "vault = vault_package:FACTORY", "vault_package", VAULT)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(work)
    monkeypatch.setenv("LAMER_DATA", str(tmp_path / "data"))
    Path("vault.yaml").write_text(CONFIG)
    yield work
    sys.modules.pop("vault_package", None)


def lamer(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="lamer")


def write_model(folder: Path) -> None:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "-c", "vault.yaml"),
        ("train", "-c", "vault.yaml", "--dry-run"),
        ("learner", "-c", "vault.yaml"),
        ("eval", "given", "-c", "vault.yaml"),
        ("warmstart", "given", "started", "-c", "vault.yaml"),
        ("model", "create", "made", "-c", "vault.yaml"),
    ],
    ids=" ".join,
)
def test_nothing_starts_without_the_data(work: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_model(work / "given")
    before = sorted(tmp_path.rglob("*"))
    result = lamer(*arguments)
    expected = f"lamer: vault: {tmp_path / 'data' / 'vault'} lacks train, codes.json; {ADVICE}\n"
    assert (result.exit_code, result.stderr, result.stdout) == (3, expected, "")
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def test_the_data_of_the_evaluation_split_is_asked_for_too(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "vault"
    (folder / "train").mkdir(parents=True)
    (folder / "codes.json").touch()
    result = lamer("train", "-c", "vault.yaml")
    assert (result.exit_code, "lacks hard; run" in result.stderr) == (3, True)


def test_the_option_data_names_another_folder(tmp_path: Path) -> None:
    result = lamer("train", "-c", "vault.yaml", f"env.options.data={tmp_path / 'elsewhere'}")
    assert (result.exit_code, f"{tmp_path / 'elsewhere'} lacks" in result.stderr) == (3, True)


def test_a_configuration_can_be_shown_without_the_data() -> None:
    assert lamer("config", "show", "-c", "vault.yaml").exit_code == 0
