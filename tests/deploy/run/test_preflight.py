"""What is refused before an evaluation starts."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from lamer.common import config
from lamer.common.errors import BadInput
from lamer.common.settings import Settings
from lamer.deploy.cli import app
from lamer.deploy.models.fitness import check_fitness
from lamer.deploy.models.warmstart import create_model
from lamer.deploy.run.preflight import check_first_prompts, check_memory, find_model


def lamer(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="lamer")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(*overrides: str) -> Settings:
    return config.load([Path("doors.yaml")], overrides)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A doors model with a context of 256 tokens and random weights."""
    folder = tmp_path_factory.mktemp("models") / "pocket"
    small = ("model.pocket.hidden=32", "model.pocket.layers=1", "model.warmstart.trials=20")
    create_model(settings(*small), folder)
    return folder


def write(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ((), "config.json, tokenizer.json, weights (model.safetensors)"),
        (("config.json", "tokenizer.json"), "weights (model.safetensors)"),
        (("config.json", "model.safetensors"), "tokenizer.json"),
        (("tokenizer.json", "model.safetensors"), "config.json"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line_with_what_it_lacks(
    tmp_path: Path, files: tuple[str, ...], lacking: str
) -> None:
    folder = write(tmp_path / "folder", *files)
    result = lamer("eval", str(folder), "-c", "doors.yaml")
    assert result.exit_code == 2
    assert result.stderr == f"lamer: {folder} is no model folder: it lacks {lacking}\n"
    assert not Path("runs").exists()


def test_a_folder_that_is_not_there_is_missing() -> None:
    result = lamer("eval", "nowhere", "-c", "doors.yaml")
    assert (result.exit_code, result.stderr) == (3, "lamer: no model folder nowhere\n")


def test_a_run_folder_stands_for_its_trained_model_and_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run", "config.yaml")
    with pytest.raises(BadInput, match="has no trained model: finish it"):
        find_model(run)
    trained = write(run / "model", "config.json", "tokenizer.json", "model.safetensors")
    assert find_model(run) == find_model(trained) == trained


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.rounds=0", "evaluation.rounds is 0; it must be at least 1"),
        ("evaluation.episodes=0", "evaluation.episodes is 0; it must be at least 1"),
        ("evaluation.tasks=0", "evaluation.tasks is 0: there is nothing to evaluate"),
        ("evaluation.every=-1", "evaluation.every is -1; it must be at least 0"),
        (
            "evaluation.memory=all",
            "evaluation.memory is 'all'; it must be one of '', none, reflection, trajectory, both",
        ),
        ("evaluation.split=test", "evaluation.split is 'test', but the environment doors has no splits"),
        ("env.options.doors=2000000", "env.options.doors"),
        ("trial.max_prompt_tokens=3", "trial.max_prompt_tokens is 3: raise it"),
        ("trial.max_response_tokens=250", "the context of"),
    ],
)
def test_what_can_t_be_evaluated_is_refused_before_anything_starts(model: Path, override: str, message: str) -> None:
    result = lamer("eval", str(model), "-c", "doors.yaml", override)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_model_that_lacks_a_tensor_is_refused_by_its_name_before_anything_starts(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = lamer("eval", str(folder), "-c", "doors.yaml")
    assert result.exit_code == 2, result.stderr
    assert result.stderr == f"lamer: {folder} lacks model.layers.0.mlp.down_proj.weight\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["eval", "train", "train --dry-run", "learner"])
def test_weights_that_were_not_downloaded_are_refused_by_every_command(
    model: Path, tmp_path: Path, command: str
) -> None:
    """What git leaves where large files are kept elsewhere."""
    folder = shutil.copytree(model, tmp_path / "pointer")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 785448\n")
    chosen = (str(folder),) if command == "eval" else (f"model.path={folder}",)
    result = lamer(*command.split(), *chosen, "-c", "doors.yaml")
    assert result.exit_code == 2, result.stderr
    assert f"{folder / 'model.safetensors'} (68 bytes) is no safetensors file" in result.stderr
    assert not Path("runs").exists()


def test_a_model_that_fits_is_tried_once_for_each_use_and_again_when_a_file_changed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(model, tmp_path / "fitting")
    check_fitness(folder, is_trained=True, is_embedded=True)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    check_fitness(folder, is_trained=True, is_embedded=True)
    with pytest.raises(FileNotFoundError):
        check_fitness(folder, is_trained=True, is_embedded=False)
    (folder / "config.json").write_text('{"model_type": "no-such"}')
    with pytest.raises(FileNotFoundError):
        check_fitness(folder, is_trained=True, is_embedded=True)


def test_a_model_whose_context_is_too_short_for_a_first_prompt_is_refused(model: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.mkdir()
    for path in model.iterdir():
        (short / path.name).write_bytes(path.read_bytes())
    limits = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**limits, "max_position_embeddings": 16}))
    with pytest.raises(BadInput, match=r"the context of .*short is 16 tokens: too short for first prompts of doors"):
        check_first_prompts(settings(), short)
    check_first_prompts(settings(), model)


def a_card(folder: Path, monkeypatch: pytest.MonkeyPatch, *megabytes: int) -> None:
    """nvidia-smi says that the machine has these cards."""
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text("#!/bin/sh\n" + "".join(f"echo {each}\n" for each in megabytes))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_trainer_that_a_card_has_no_room_for_is_refused_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config.PACKAGED.parent / "architectures", tmp_path / "sizes")
    folder = tmp_path / "Qwen3-4B"
    folder.mkdir()
    entries = json.loads((tmp_path / "sizes" / "qwen3-4b.json").read_text())
    del entries["source"]
    (folder / "config.json").write_text(json.dumps(entries))
    a_card(tmp_path, monkeypatch, 81559)
    chosen = config.load([Path("paper/sokoban-lamer.yaml")], [f"model.path={folder}"])
    with pytest.raises(
        BadInput, match=r"needs 72\.\d GB, a card of 86 GB beside a server of 17\.7 GB .*: set "
    ) as told:
        check_memory(chosen)
    assert "optimizer.kind=adamw_8bit (then 30." in str(told.value)
    check_memory(config.load([Path("paper/sokoban-lamer.yaml")], [f"model.path={folder}", "inference.servers=0"]))
    check_memory(config.load([Path("paper/sokoban-lamer.yaml")], [f"model.path={folder}", "inference.engine=embedded"]))
    several = config.load([Path("paper/sokoban-lamer.yaml")], [f"model.path={folder}", "trainer.gpus=2"])
    with pytest.raises(BadInput, match=r"trainer\.gpus is 2, and this machine has 1"):
        check_memory(several)
    a_card(tmp_path, monkeypatch, 81559, 81559)
    check_memory(chosen)
    check_memory(several)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(BadInput, match=r"beside a server"):  # one card is seen, which both share
        check_memory(chosen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    a_card(tmp_path, monkeypatch, 8000)
    check_memory(chosen)


def test_a_machine_without_a_card_is_not_asked_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_memory(config.load([Path("paper/sokoban-lamer.yaml")], ["model.path=models/none"]))
