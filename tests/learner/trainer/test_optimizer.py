"""AdamW in float32, and with 8-bit moments and bfloat16 weights that are rounded stochastically."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lamer.common.errors import BadInput
from lamer.common.settings import OptimizerSettings
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.optimizer import ParameterOptimizer
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch, write_model
from tests.learner.trainer.test_checkpoint import SETTINGS, saved, weights

EIGHT_BIT = OptimizerSettings(kind="adamw_8bit", learning_rate=1e-6, weight_decay=0.0)
TRAINED = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, kind="adamw_8bit"))


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """Large enough that most of its moments are quantised."""
    return write_model(tmp_path / "model", hidden_size=64, intermediate_size=128, vocab_size=128)


def moved(dtype: torch.dtype, settings: OptimizerSettings | None, steps: int = 200) -> float:
    """How far weights have gone in the mean, each against the sign of its own gradient. settings None: torch's AdamW on
    the weights as they are, which rounds to the nearest.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.normal(0.0, 0.02, (64, 512), generator=generator).bfloat16()
    signs = torch.randint(0, 2, start.shape, generator=generator).float() * 2 - 1
    weight = torch.nn.Parameter(start.to(dtype, copy=True))
    if settings is None:
        plain = torch.optim.AdamW([weight], lr=EIGHT_BIT.learning_rate, weight_decay=0.0)
        step: Callable[[], object] = plain.step
    else:
        step = ParameterOptimizer("", {"weight": weight}, settings).step
    torch.manual_seed(0)
    for _ in range(steps):
        weight.grad = (signs + torch.normal(0.0, 0.5, start.shape, generator=generator)).to(dtype)
        step()
    return float(((start.float() - weight.detach().float()) * signs).mean())


def test_small_steps_move_weights_of_16_bits_in_the_mean_as_they_move_weights_of_32() -> None:
    expected = moved(torch.float32, replace(EIGHT_BIT, kind="adamw"))
    assert expected == pytest.approx(200 * 1e-6, rel=0.3)
    assert moved(torch.bfloat16, EIGHT_BIT) == pytest.approx(expected, rel=0.03)
    assert moved(torch.bfloat16, None) < 0.1 * expected, "rounded to the nearest, they are lost"


def test_moments_of_8_bits_are_plain_tensors_in_a_checkpoint_and_training_on_is_bit_equal(
    model_path: Path, tmp_path: Path
) -> None:
    straight = PolicyUpdater(TRAINED, model_path)
    for step in (1, 2, 3):
        straight.update(step, play_batch(step))
        if step == 1:
            folder = saved(straight, tmp_path)
    kept, moments = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.up_proj.weight"
    assert moments[f"{name}/exp_avg.codes"].dtype is torch.uint8
    assert moments[f"{name}/exp_avg.codes"].shape == kept[name].shape
    assert moments[f"{name}/exp_avg_sq.scale"].shape == (kept[name].numel() // 256,)
    assert moments["model.norm.weight/exp_avg"].dtype is torch.bfloat16, "too small to be quantised"

    torch.manual_seed(99)
    resumed = PolicyUpdater(TRAINED, model_path)
    resumed.load_checkpoint(checkpoint.latest(tmp_path))
    for step in (2, 3):
        resumed.update(step, play_batch(step))
    assert weights(resumed, tmp_path / "a") == weights(straight, tmp_path / "b")
    again = [
        load_file(saved(one, tmp_path / str(at)) / "optimizer.safetensors")
        for at, one in enumerate((straight, resumed))
    ]
    assert all(torch.equal(again[0][key], again[1][key]) for key in again[0].keys() | again[1].keys())


def test_a_checkpoint_of_the_other_kind_of_optimizer_is_refused_in_one_line(model_path: Path, tmp_path: Path) -> None:
    folder = saved(PolicyUpdater(SETTINGS, model_path), tmp_path)
    with pytest.raises(BadInput, match="was written under settings") as refused:
        PolicyUpdater(TRAINED, model_path).load_checkpoint(folder)
    assert "\n" not in str(refused.value)


def test_gradients_are_freed_once_the_step_is_taken(model_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    updater.update(1, play_batch(1))
    assert {parameter.grad for parameter in updater._model.parameters().values()} == {None}


def test_gradients_of_16_bits_are_clipped_by_a_norm_of_32() -> None:
    weight = torch.nn.Parameter(torch.zeros(8192, dtype=torch.bfloat16))
    optimizer = ParameterOptimizer("", {"weight": weight}, replace(EIGHT_BIT, max_grad_norm=1.0))
    weight.grad = torch.full_like(weight, 0.1)
    norm = optimizer.clip_gradient()
    assert norm == pytest.approx(float(weight.new_tensor(0.1)) * 8192**0.5, rel=1e-4)
    assert float(torch.linalg.vector_norm(weight.grad, dtype=torch.float32)) == pytest.approx(1.0, rel=0.01)
    weight.grad.fill_(float("inf"))
    assert optimizer.clip_gradient() == float("inf")


def test_the_library_is_imported_for_its_kind_alone_and_says_nothing() -> None:
    code = (
        "import sys, torch; from lamer.learner.trainer.optimizer import ParameterOptimizer as P;"
        "from lamer.common.settings import OptimizerSettings as S;"
        "w = {'w': torch.nn.Parameter(torch.zeros(4))}; P('', w, S()); assert 'torchao' not in sys.modules;"
        "P('', w, S(kind='adamw_8bit')); assert 'torchao' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
