"""A model folder becomes a model here, or is refused by name: the trainer and the embedded engine load through this.

    read_config   the configuration: of a known architecture, decoder only, not quantised
    empty_model   the model without its weights, on torch's meta device
    load_model    the model, known to hold what its folder stores and nothing else

Building somebody's class from somebody's config.json can raise anything; whatever it is, the folder can't be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from lamer.common.errors import BadInput, LamerError, Missing
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.fitness.tensors import check_tensors

_QUANTISED = ("quantization_config", "compression_config")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_LAYERS = frozenset({"full_attention", "sliding_attention"})


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the model in `folder`.

    Raises:
        Missing: no such folder.
        BadInput: it has no config.json, or one that can't be read, or that describes a model that can neither be
            trained nor served by the embedded engine.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise Missing(f"there is no model folder {folder}")
    if not path.is_file():
        raise BadInput(f"no model in {folder}: it has no config.json")
    try:
        _check_entries(folder, json.loads(path.read_text(encoding="utf-8")))
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_config(folder, config)
    except LamerError:
        raise
    except Exception as error:
        raise _refusal(folder, error) from error
    return cast(PreTrainedConfig, config)


def _check_entries(folder: Path, entries: object) -> None:
    if not isinstance(entries, dict):
        raise BadInput(f"{folder / 'config.json'} holds no model configuration but a {type(entries).__name__}")
    for part in (entries, *(value for value in entries.values() if isinstance(value, dict))):
        for key in _QUANTISED:
            if part.get(key):
                method = part[key].get("quant_method", key) if isinstance(part[key], Mapping) else key
                raise BadInput(
                    f"{folder} holds quantised weights ({method}), which can't be trained: take the model they were "
                    "made from"
                )


def _check_config(folder: Path, config: Any) -> None:  # noqa: ANN401 - each model type has a class of its own
    kind = config.model_type
    lacking = [name for name in _SIZES if not isinstance(getattr(config, name, None), int)]
    if lacking:
        raise BadInput(f"models of type {kind!r} can't be used: the configuration in {folder} has no {lacking[0]}")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYERS)
    if others:
        raise BadInput(f"models of type {kind!r} can't be used: layers of {folder} are {', '.join(others)}")


def exact_context(config: PreTrainedConfig) -> int:
    """How many tokens a sequence may have.

    With "longrope" no more than the model was first trained with: beyond it the angles of all positions are others, so
    what is computed for a sequence depends on how long the longest one is that is computed with it.
    """
    context = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") == "longrope":
            context = min(context, int(part["original_max_position_embeddings"]))
    return context


def empty_model(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration with shapes and no memory.

    Raises:
        BadInput: it is no causal language model.
    """
    try:
        with torch.device("meta"):
            return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except Exception as error:
        raise _refusal(folder, error) from error


def load_model(folder: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The model in `folder`, ready to be run: no dropout.

    Args:
        folder: the model folder.
        dtype: of its parameters.
        attention: the attention function that transformers is to call.

    Raises:
        Missing: no such folder, or a file that it lacks. BadInput: a folder that can't be used.
    """
    config = read_config(folder)
    check_tensors(folder, empty_model(folder, config))
    disable_progress_bar()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _refusal(folder, error) from error
    for kind, what in (("missing_keys", "lacks"), ("unexpected_keys", "holds, foreign to the model,")):
        if found[kind]:
            raise BadInput(f"{folder} {what} {', '.join(sorted(map(str, found[kind]))[:3])}")
    return cast(PreTrainedModel, model.eval())


def _refusal(folder: Path, error: Exception) -> BadInput:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return BadInput(f"the model in {folder} can't be loaded: {said}")
