"""Several ranks train as one process does: the same parameters, gradients and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lamer.common import config
from lamer.common.settings import AdvantageSettings, BatchSettings, CriticSettings, LossSettings, Settings
from tests.learner.builders import write_model
from tests.learner.trainer.ranks.training import Outcome, Task, run
from tests.learner.trainer.test_update import SETTINGS

CASES = {
    "gigpo": replace(SETTINGS, advantage=AdvantageSettings(estimator="gigpo")),
    "minibatches, KL": replace(SETTINGS, loss=LossSettings(kind="decoupled_ppo", kl_weight=0.1, entropy=0.01)),
    "ppo, critic on the policy": replace(
        SETTINGS, advantage=AdvantageSettings(estimator="ppo"), critic=CriticSettings(kind="head")
    ),
    "ppo, critic of its own": replace(
        SETTINGS, advantage=AdvantageSettings(estimator="ppo"), critic=CriticSettings(kind="separate")
    ),
}
MEASURED = ("loss/", "engine/", "critic/", "policy/")


def task(folder: Path, name: str, settings: Settings, updates: int, dtype: str = "float64", **others: object) -> Task:
    model = folder / "model"
    if not model.is_dir():
        write_model(model)
    seeds = tuple(range(updates))
    settings = replace(settings, batch=BatchSettings(updates=10))
    return Task(str(model), config.to_json(settings), dtype, seeds, str(folder / f"{name}.safetensors"), **others)


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def assert_same_figures(one: Outcome, other: Outcome) -> None:
    for ours, theirs in zip(one.metrics, other.metrics, strict=True):
        assert [metric.name for metric in ours] == [metric.name for metric in theirs]
        for a, b in zip(ours, theirs, strict=True):
            if a.name.startswith(MEASURED):
                assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6), a.name


@pytest.mark.parametrize("case", CASES)
def test_two_and_three_ranks_train_as_one_process_does(tmp_path: Path, case: str) -> None:
    alone, figures = run(task(tmp_path, "one", CASES[case], 4), 1)
    for size in (2, 3):
        together, theirs = run(task(tmp_path, f"of {size}", CASES[case], 4), size)
        assert furthest(alone, together) < 1e-7
        assert_same_figures(figures, theirs)


def test_gradients_in_float32_from_equal_parameters_are_those_of_one_process(tmp_path: Path) -> None:
    alone, _ = run(task(tmp_path, "one", CASES["gigpo"], 1, "float32", has_steps=False), 1)
    together, _ = run(task(tmp_path, "two", CASES["gigpo"], 1, "float32", has_steps=False), 2)
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert float((gradient - together[name]).norm()) <= 1e-5 * float(gradient.norm()), name


def test_the_same_number_of_ranks_gives_the_same_bits(tmp_path: Path) -> None:
    first, _ = run(task(tmp_path, "one", CASES["minibatches, KL"], 2, "float32"), 2)
    second, _ = run(task(tmp_path, "two", CASES["minibatches, KL"], 2, "float32"), 2)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
