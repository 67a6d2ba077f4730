"""Settings that suit a model of another size: who is warned, and that the sizes are the real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.settings import BatchSettings, ModelSettings, OptimizerSettings, PocketSettings, Settings
from lamer.deploy.models.suitability import count_parameters, unsuited
from lamer.learner.pocket.model import create_pocket, train_tokenizer

LARGE = PocketSettings(hidden=1024, layers=12, intermediate=4096, vocabulary=32_000)
"""187M parameters, by sizes alone: nothing creates them."""


def warned(rate: float, pocket: PocketSettings | None = None) -> tuple[str, ...]:
    model = ModelSettings(pocket=pocket or PocketSettings())
    return unsuited(Settings(model=model, optimizer=OptimizerSettings(learning_rate=rate)))


def test_a_pocket_model_with_a_learning_rate_for_billions_is_one_line_with_setting_value_size_and_what_suits() -> None:
    (line,) = warned(1e-6)  # the default of both
    for part in ("optimizer.learning_rate is 1e-06", "0.2M parameters", "about 1e-3", "pocket.yaml"):
        assert part in line
    assert "\n" not in line


def test_a_large_model_with_a_learning_rate_for_a_pocket_model_is_warned_of() -> None:
    (line,) = warned(1e-3, LARGE)
    for part in ("optimizer.learning_rate is 0.001", "187.3M parameters", "about 1e-6"):
        assert part in line


def test_what_suits_or_is_not_trained_is_not_warned_of() -> None:
    assert warned(1e-3) == warned(1e-6, LARGE) == warned(1e-5, LARGE) == ()
    assert unsuited(replace(Settings(), batch=BatchSettings(updates=0))) == ()


def test_the_parameters_counted_are_those_of_the_model_that_is_made(tmp_path: Path) -> None:
    sizes = PocketSettings(hidden=16, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=24, vocabulary=300)
    tokenizer = train_tokenizer([f"{a}{b}" for a in "abcdefgh" for b in "klmnopqr"] * 9, sizes.vocabulary)
    made = create_pocket(sizes, tokenizer, 0, tmp_path / "model")
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    assert count_parameters(ModelSettings(pocket=replace(sizes, vocabulary=vocabulary))) == made
    assert count_parameters(ModelSettings(path=str(tmp_path / "model"))) == made


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_cannot_be_counted_are_no_reason_to_warn(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    assert unsuited(Settings(model=ModelSettings(path=str(tmp_path)))) == ()
