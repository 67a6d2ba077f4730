"""The packed forward beside transformers' own, for models that are computed directly and for one that is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lamer.deploy.inference.embedded.attention import Chunk
from lamer.deploy.inference.embedded.decoder import fits
from lamer.deploy.inference.embedded.model import PackedModel, StepInput
from lamer.deploy.inference.embedded.products import matmul_transposed, padded_length

VOCABULARY = 96
CONTEXT = 768
LENGTHS = (5, 90, 300, 433, 1)
"""Prompts of every kind: short chunks, long ones (a whole block and more), and a single token."""

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
MODELS: dict[str, dict[str, object]] = {
    "qwen3": {},
    "qwen2": {},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "llama with scaled positions": {"rope_parameters": LLAMA3_ROPE},
    "olmo2": {},
    "qwen3 with a window in one layer": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
    "mistral with windows": {"sliding_window": 200},
    "gemma3_text": {"sliding_window": 40, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 12},
}
DIRECT = ("llama", "qwen")


def make_config(name: str) -> PreTrainedConfig:
    return AutoConfig.for_model(
        name.partition(" ")[0], hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=80, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **MODELS[name],
    )  # fmt: skip


def write_model(folder: Path, name: str, seed: int = 0) -> torch.nn.Module:
    """A random model in which every parameter matters."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(name)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    model.save_pretrained(folder)
    return model


def make_step(pieces: list[tuple[int, int, int]], tokens: list[np.ndarray], decode_count: int = 0) -> StepInput:
    """A step over (row, start, end) of each sequence, every token's logits wanted."""
    positions = np.concatenate([np.arange(start, end) for _, start, end in pieces])
    return StepInput(
        ids=np.concatenate([tokens[row][start:end] for row, start, end in pieces]),
        rows=np.concatenate([np.full(end - start, row) for row, start, end in pieces]),
        positions=positions,
        decode_count=decode_count,
        chunks=[Chunk(*piece) for piece in pieces[decode_count:]],
        wanted=np.arange(len(positions)),
    )


def expected(model: torch.nn.Module, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens)[None]).logits[0]


@pytest.mark.parametrize("name", MODELS)
def test_prompts_in_pieces_and_decoding_give_the_logits_of_transformers(tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path, name)
    packed = PackedModel(tmp_path, "float32", len(LENGTHS), len(LENGTHS) * CONTEXT)
    packed.cache.reshape(CONTEXT)
    assert fits(packed.module) == name.startswith(DIRECT)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, VOCABULARY, length + 1) for length in LENGTHS]
    cuts = [length * 2 // 3 for length in LENGTHS]
    steps = [
        ([(row, 0, cut) for row, cut in enumerate(cuts) if cut], 0),
        ([(row, cut, length) for row, (cut, length) in enumerate(zip(cuts, LENGTHS, strict=True))], 0),
        ([(row, length, length + 1) for row, length in enumerate(LENGTHS)], len(LENGTHS)),
    ]
    wanted = [expected(model, ids) for ids in tokens]
    for pieces, decode_count in steps:
        logits = packed.forward(make_step(pieces, tokens, decode_count))
        right = torch.cat([wanted[row][start:end] for row, start, end in pieces])
        assert logits.shape == right.shape
        assert (torch.log_softmax(logits, -1) - torch.log_softmax(right, -1)).abs().max() < 1e-4


def test_decoding_and_a_long_prompt_share_a_step(tmp_path: Path) -> None:
    model = write_model(tmp_path, "qwen3")
    packed = PackedModel(tmp_path, "float32", 2, 2 * CONTEXT)
    packed.cache.reshape(CONTEXT)
    tokens = [np.random.default_rng(row).integers(0, VOCABULARY, 400) for row in range(2)]
    packed.forward(make_step([(0, 0, 399)], tokens))
    logits = packed.forward(make_step([(0, 399, 400), (1, 0, 400)], tokens, 1))
    right = torch.cat([expected(model, tokens[0])[399:], expected(model, tokens[1])])
    assert (logits - right).abs().max() < 1e-4 * right.abs().max()


def test_new_weights_change_the_direct_forward(tmp_path: Path) -> None:
    write_model(tmp_path / "old", "qwen3")
    model = write_model(tmp_path / "new", "qwen3", seed=1)
    packed = PackedModel(tmp_path / "old", "float32", 1, CONTEXT)
    packed.load_weights(tmp_path / "new")
    tokens = [np.arange(20)]
    right = expected(model, tokens[0])
    assert (packed.forward(make_step([(0, 0, 20)], tokens)) - right).abs().max() < 1e-4 * right.abs().max()


@pytest.mark.parametrize("rows", [1, 5, 6, 33])
def test_products_are_those_of_a_linear_layer(rows: int) -> None:
    layer, x = torch.nn.Linear(40, 24), torch.randn(rows, 40)
    with torch.inference_mode():
        assert torch.allclose(matmul_transposed(x, layer.weight, layer.bias), layer(x), atol=1e-5)
        turned = torch.randn(40, 24)
        assert torch.allclose(matmul_transposed(x, turned.t()), x @ turned, atol=1e-4)


def test_lengths_are_padded_to_few_and_by_little() -> None:
    padded = [padded_length(length) for length in range(1, 4097)]
    assert all(length <= longer < length * 1.1 + 10 for length, longer in enumerate(padded, 1))
    assert len(set(padded)) < 100
