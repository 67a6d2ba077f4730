"""A folder that does not hold exactly its model, or a model that is not computed here, is refused by its name: by the
trainer, by the embedded engine and by the check before a run alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lamer.common.errors import LamerError
from lamer.common.settings import TrainerSettings
from lamer.deploy.fitness.__main__ import check
from lamer.deploy.inference.embedded.model import PackedModel
from lamer.learner.trainer.model.policy import PolicyModel
from tests.learner.builders import write_model

NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]


def train(folder: Path) -> None:
    PolicyModel(folder, TrainerSettings(device="cpu"))


def serve(folder: Path) -> None:
    PackedModel(folder, "float32", 2, 256)


def start(folder: Path) -> None:
    check(folder, is_trained=True, is_embedded=True)


def evaluate(folder: Path) -> None:
    check(folder, is_trained=False, is_embedded=True)


ALL = (train, serve, start, evaluate)


def told(folder: Path, callers: tuple[Callable[[Path], None], ...] = ALL) -> list[tuple[int, str]]:
    """What each of `callers` says of a folder that all of them refuse: exit codes and messages, the folder left out."""
    found = []
    for caller in callers:
        with pytest.raises(LamerError) as refused:
            caller(folder)
        found.append((refused.value.exit_code, str(refused.value).replace(str(folder), "FOLDER")))
    return found


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a whole folder, to be damaged."""
    return shutil.copytree(whole, tmp_path / "model")


def test_a_whole_folder_is_trained_and_served(folder: Path) -> None:
    for caller in ALL:
        caller(folder)


def test_a_head_stored_beside_the_embedding_it_is_tied_to_may_be_the_same_and_nothing_else(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    for caller in ALL:
        caller(folder)
    change_tensors(folder, lambda tensors: tensors[HEAD].add_(1))
    assert {message.partition(" with different values")[1] for _, message in told(folder)} == {" with different values"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"FOLDER lacks {NORM}"),
        (lambda tensors: tensors.update({"model.norm.bias": torch.zeros(4)}), "FOLDER holds model.norm.bias"),
        (
            lambda tensors: tensors.update({NORM: torch.ones(5)}),
            f"{NORM} is [5] in FOLDER, its config.json makes it [32]",
        ),
        (
            lambda tensors: tensors.update({NORM: torch.ones(32).to(torch.float8_e4m3fn)}),
            f"{NORM} is F8_E4M3 in FOLDER: quantised",
        ),
    ],
    ids=["missing", "foreign", "another shape", "quantised without a word"],
)
def test_tensors_that_are_not_the_models_are_named(
    folder: Path, change: Callable[[Tensors], object], message: str
) -> None:
    change_tensors(folder, change)
    assert [(code, said[: len(message)]) for code, said in told(folder)] == [(2, message)] * len(ALL)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "FOLDER holds quantised weights (gptq)"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "FOLDER holds quantised weights (compressed"),
        ({"model_type": "no-such"}, "the model in FOLDER can't be loaded: The checkpoint you are trying to load has"),
        (
            {"model_type": "no-such", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}},
            "the model in FOLDER can't be loaded: The repository FOLDER contains custom code",
        ),
        ({"model_type": "t5"}, "the model in FOLDER can't be loaded: Unrecognized configuration class"),
        ({"num_hidden_layers": 3, "layer_types": None}, "FOLDER lacks model.layers.2."),
        ({"tie_word_embeddings": False}, f"FOLDER lacks {HEAD}"),
    ],
    ids=["gptq", "compressed", "unknown", "code of its own", "no decoder", "more layers", "an untied head"],
)
def test_a_configuration_of_another_model_or_of_none_is_refused(
    folder: Path, entries: dict[str, object], message: str
) -> None:
    change_config(folder, **entries)
    assert [(code, said[: len(message)]) for code, said in told(folder)] == [(2, message)] * len(ALL)


def test_shards_that_the_index_names_have_to_be_there(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {NORM: "model-1.safetensors", HEAD: "model-2.safetensors"}}))
    assert told(folder) == [(3, "FOLDER lacks model-2.safetensors, which its index names")] * len(ALL)
    shutil.copy(folder / "model-1.safetensors", folder / "model.safetensors")
    assert {(code, "an index of other files" in message) for code, message in told(folder)} == {(2, True)}


def write(folder: Path, kind: str, **sizes: Any) -> Path:  # noqa: ANN401 - of a configuration
    """A random model of another architecture than Qwen3."""
    torch.manual_seed(0)
    common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    common |= {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **{**common, "initializer_range": 0.2, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "sizes", "reason"),
    [
        ("gemma2", {}, "softcap"),
        ("gpt_oss", {"num_local_experts": 4}, "s_aux"),
        ("llama4_text", {"num_local_experts": 4}, "chunked_attention"),
        ("mpt", {"n_heads": 4, "n_layers": 2, "d_model": 32}, "differ by"),
    ],
)
def test_layers_that_attend_in_another_way_are_refused_with_it(
    tmp_path: Path, kind: str, sizes: dict[str, object], reason: str
) -> None:
    """Scores that are capped, sinks, chunks, biases by position."""
    folder = write(tmp_path / "model", kind, **sizes)
    assert [(code, reason in message) for code, message in told(folder)] == [(2, True)] * len(ALL)


def test_a_folder_whose_tensors_get_other_names_when_loaded_is_trained_and_served(tmp_path: Path) -> None:
    """A mixture of experts: transformers joins the experts of a layer."""
    folder = write(tmp_path / "model", "qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    for caller in ALL:
        caller(folder)
    change_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.experts.2.gate_proj.weight"))
    lacking = (2, "FOLDER lacks model.layers.1.mlp.experts.2.gate_proj.weight")
    assert told(folder) == [lacking] * len(ALL)
