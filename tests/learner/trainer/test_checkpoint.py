"""Checkpoints: training goes on as if it had not stopped, and damage is noticed."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lamer.common.errors import BadInput, Missing
from lamer.common.settings import (
    BatchSettings,
    LossSettings,
    OptimizerSettings,
    Settings,
    TrainerSettings,
    TrialSettings,
)
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch, write_model

SETTINGS = Settings(
    trial=TrialSettings(max_prompt_tokens=40, max_response_tokens=8, max_reflection_tokens=8),
    batch=BatchSettings(updates=10),
    optimizer=OptimizerSettings(learning_rate=1e-2, minibatches=3, pack_tokens=64),
    loss=LossSettings(entropy=0.01, entropy_final=0.0),
    trainer=TrainerSettings(device="cpu"),
)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def saved(updater: PolicyUpdater, run_dir: Path) -> Path:
    return updater.save_checkpoint(checkpoint.folder(run_dir, updater.version))


def weights(updater: PolicyUpdater, folder: Path) -> str:
    return updater.save_weights(folder)


def test_training_on_after_a_resume_gives_bit_equal_parameters(model_path: Path, tmp_path: Path) -> None:
    batches = [play_batch(seed) for seed in range(5)]
    straight = PolicyUpdater(SETTINGS, model_path)
    for step, batch in enumerate(batches, 1):
        straight.update(step, batch)
        if step == 2:
            saved(straight, tmp_path)
    resumed = PolicyUpdater(SETTINGS, model_path)
    resumed.load_checkpoint(checkpoint.latest(tmp_path))
    assert resumed.version == 2
    for step, batch in enumerate(batches[2:], 3):
        resumed.update(step, batch)
    assert weights(resumed, tmp_path / "a") == weights(straight, tmp_path / "b")


def test_random_generators_go_on_where_they_stood(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    folder = saved(updater, tmp_path)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    updater.load_checkpoint(folder)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_a_checkpoint_before_the_first_update_can_be_resumed(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    resumed = PolicyUpdater(SETTINGS, model_path)
    resumed.load_checkpoint(saved(updater, tmp_path))
    assert resumed.version == 0
    resumed.update(1, play_batch(0))


def test_the_newest_checkpoint_is_the_latest_and_old_ones_are_removed(model_path: Path, tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    updater = PolicyUpdater(SETTINGS, model_path)
    folders = []
    for step in range(1, 4):
        updater.update(step, play_batch(step))
        folders.append(saved(updater, tmp_path))
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.checkpoints(tmp_path) == (folders[2], folders[1])
    assert checkpoint.latest(tmp_path) == folders[2]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    updater.update(1, play_batch(1))
    before = saved(updater, tmp_path)
    updater.update(2, play_batch(2))
    file = saved(updater, tmp_path) / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(BadInput, match="step-00000002"):
        updater.load_checkpoint(file.parent)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path) == before
    assert "step-00000002" in caplog.text


def test_a_temporary_folder_of_a_killed_writer_is_no_checkpoint(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    folder = saved(updater, tmp_path)
    (folder.parent / ".step-00000009.abc").mkdir()
    assert checkpoint.latest(tmp_path) == folder


def test_a_checkpoint_whose_replacement_was_killed_half_way_is_found_again(model_path: Path, tmp_path: Path) -> None:
    """It was set aside, and the new one had not taken its place."""
    folder = saved(PolicyUpdater(SETTINGS, model_path), tmp_path)
    folder.rename(folder.with_name(f".{folder.name}.0123abcd.replaced"))
    (folder.parent / f".{folder.name}.0123abcd").mkdir()
    assert checkpoint.latest(tmp_path) == folder
    assert list(folder.parent.iterdir()) == [folder]


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over_silently(
    model_path: Path, tmp_path: Path
) -> None:
    folder = saved(PolicyUpdater(SETTINGS, model_path), tmp_path)
    (folder / "state.json").unlink()
    with pytest.raises(BadInput, match="none of the 1 checkpoints"):
        checkpoint.latest(tmp_path)


def test_a_checkpoint_of_other_settings_or_another_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    folder = saved(PolicyUpdater(SETTINGS, model_path), tmp_path)
    changed = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, learning_rate=1.0))
    with pytest.raises(BadInput, match="was written under settings"):
        PolicyUpdater(changed, model_path).load_checkpoint(folder)
    wider = write_model(tmp_path / "wider", hidden_size=64)
    with pytest.raises(BadInput, match="of another model"):
        PolicyUpdater(SETTINGS, wider).load_checkpoint(folder)
    with pytest.raises(Missing, match="there is no checkpoint"):
        PolicyUpdater(SETTINGS, model_path).load_checkpoint(tmp_path / "none")


def test_a_longer_run_may_go_on_from_a_checkpoint(model_path: Path, tmp_path: Path) -> None:
    folder = saved(PolicyUpdater(SETTINGS, model_path), tmp_path)
    longer = replace(SETTINGS, batch=replace(SETTINGS.batch, updates=50), trainer=replace(SETTINGS.trainer, threads=1))
    PolicyUpdater(longer, model_path).load_checkpoint(folder)
