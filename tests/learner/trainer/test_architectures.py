"""A folder in, the same folder out: what architectures publish after two updates is what they came with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lamer.common.records import Trial
from lamer.common.settings import Settings
from lamer.deploy.inference.embedded.model import PackedModel
from lamer.learner.trainer.broadcast.rank_zero import plan_buckets
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch
from tests.learner.trainer.test_checkpoint import SETTINGS

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "llama 3": (
        "llama",
        {"tie_word_embeddings": False, "rope_parameters": {**LLAMA_3, "original_max_position_embeddings": 64}},
    ),
    "mistral with a window": ("mistral", {"sliding_window": 8, "tie_word_embeddings": False}),
    "qwen3 moe": ("qwen3_moe", {"num_experts": 4, **EXPERTS}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "gemma 3": ("gemma3_text", {"sliding_window": 8}),
    "glm 4 moe": (
        "glm4_moe",
        {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **EXPERTS},
    ),
}
Described = dict[str, tuple[str, tuple[int, ...]]]


def write(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Path:
    kind, sizes = KINDS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **sizes}))
    for buffer_name, buffer in model.named_buffers():
        if "bias" in buffer_name:
            buffer.copy_(torch.rand_like(buffer))
    model.to(dtype).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def described(folder: Path) -> Described:
    """dtype and shape by name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            found |= {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    return found


def played(seed: int, version: int, folder: Path) -> list[Trial]:
    """A batch with the logprobs that transformers computes with the weights in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    trials = play_batch(seed, version=version)
    with torch.no_grad():
        for each in (completion for trial in trials for completion in trial.completions()):
            ids = torch.from_numpy(np.concatenate((each.prompt_ids, each.ids))).long()
            logprobs = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0].float(), -1)
            rows = torch.arange(len(each.prompt_ids) - 1, len(ids) - 1)
            each.behaviour_logprobs[:] = logprobs[rows, ids[len(each.prompt_ids) :]].numpy()
    return trials


def parity(updater: PolicyUpdater, trials: list[Trial], folders: list[Path]) -> float:
    found = {metric.name: metric.value for metric in updater.parity(trials, folders.__getitem__)}
    assert found["engine/parity_version"] == len(folders) - 1
    return found["engine/parity_max"]


@pytest.mark.parametrize("name", KINDS)
def test_two_updates_publish_what_the_folder_held_and_agree_with_what_is_computed_with_it(
    tmp_path: Path, name: str
) -> None:
    folders = [write(tmp_path / "v0", name)]
    updater = PolicyUpdater(SETTINGS, folders[0])
    for step in (1, 2):
        trials = played(step, step - 1, folders[-1])
        assert parity(updater, trials, folders) < 1e-4
        updater.update(step, trials)
        folders.append(tmp_path / f"v{step}")
        updater.save_weights(folders[-1])
    assert parity(updater, played(3, 2, folders[-1]), folders) < 1e-4
    start, end = described(folders[0]), described(folders[-1])
    assert end == start
    before, after = (load_file(folder / "model.safetensors") for folder in (folders[0], folders[-1]))
    same = [key for key in before if torch.equal(before[key], after[key])]
    assert all("e_score_correction_bias" in key for key in same), "everything is trained but buffers"
    buckets = plan_buckets(folders[-1], ("model.safetensors",), 1 << 20)
    assert {key for bucket in buckets for key in bucket.names} == set(start), "a broadcast has them too"


@pytest.mark.parametrize("name", ["qwen3", "qwen3 moe"])
def test_the_embedded_engine_takes_over_what_is_published(tmp_path: Path, name: str) -> None:
    start = write(tmp_path / "v0", name)
    engine = PackedModel(start, "float32", 2, 512)
    updater = PolicyUpdater(SETTINGS, start)
    updater.update(1, play_batch(1))
    updater.save_weights(tmp_path / "v1")
    engine.load_weights(tmp_path / "v1")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "v1", dtype=torch.float32).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in engine.module.state_dict().items())


def test_versions_have_the_dtype_of_the_run_and_the_exported_model_those_of_its_folder(tmp_path: Path) -> None:
    """Buffers keep theirs: a router's correction is added in the precision that it came with."""
    start = write(tmp_path / "start", "glm 4 moe", torch.bfloat16)
    biases = [key for key in described(start) if key.endswith("e_score_correction_bias")]
    tensors = load_file(start / "model.safetensors")
    tensors |= {key: tensors[key].float() for key in biases}
    save_file(tensors, start / "model.safetensors", metadata={"format": "pt"})
    updater = PolicyUpdater(SETTINGS, start)
    updater.update(1, play_batch(1))
    updater.save_weights(tmp_path / "v1")
    updater.export(tmp_path / "model")
    shapes = described(start)
    assert biases
    assert described(tmp_path / "v1") == {key: ("F32", shape) for key, (_, shape) in shapes.items()}
    assert described(tmp_path / "model") == shapes
    config = [json.loads((tmp_path / each / "config.json").read_text())["dtype"] for each in ("start", "v1", "model")]
    assert config == ["bfloat16", "float32", "bfloat16"]


def test_a_version_of_16_bits_keeps_the_buffers_of_its_folder(tmp_path: Path) -> None:
    start = write(tmp_path / "start", "glm 4 moe")
    settings: Settings = replace(SETTINGS, trainer=replace(SETTINGS.trainer, dtype="bfloat16"))
    PolicyUpdater(settings, start).save_weights(tmp_path / "v0")
    found = {key: dtype for key, (dtype, _) in described(tmp_path / "v0").items()}
    assert {dtype for key, dtype in found.items() if "e_score_correction_bias" not in key} == {"BF16"}
    assert {dtype for key, dtype in found.items() if "e_score_correction_bias" in key} == {"F32"}


def test_a_head_that_is_stored_beside_the_embedding_it_is_tied_to_is_published_under_both_names(tmp_path: Path) -> None:
    """And what older folders store that transformers ignores is carried along."""
    start = write(tmp_path / "start", "qwen3")
    tensors = load_file(start / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(4.0)
    names = sorted(tensors)
    half = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in half.items():
        save_file({key: tensors[key] for key in keys}, start / file, metadata={"format": "pt"})
    (start / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {key: file for file, keys in half.items() for key in keys}}
    (start / "model.safetensors.index.json").write_text(json.dumps(index))

    updater = PolicyUpdater(SETTINGS, start)
    updater.update(1, play_batch(1))
    updater.save_weights(tmp_path / "v1")
    assert described(tmp_path / "v1") == described(start)
    found = load_file(tmp_path / "v1" / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert not torch.equal(found["lm_head.weight"], tensors["lm_head.weight"])
    assert torch.equal(found["model.layers.0.self_attn.rotary_emb.inv_freq"], torch.arange(4.0))
    PackedModel(start, "float32", 2, 256).load_weights(tmp_path / "v1")
