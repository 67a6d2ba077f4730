"""A model's sizes without its weights: from its folder, from the architectures that come with lamer, or from `pocket`.

The number of parameters is counted on torch's meta device, where a tensor has a shape and no memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lamer.common.errors import BadInput, Missing
from lamer.common.settings import ModelSettings, PocketSettings
from lamer.learner.memory.architecture import Architecture, architecture_of

DESCRIBED = Path(__file__).resolve().parent.parent / "architectures"
"""`NAME.json`: the entries of a model's `config.json` that decide its shapes, and `source`, where they stand."""


def load_architecture(model: ModelSettings) -> Architecture:
    """The architecture that a configuration trains: the folder's if it is there, else `model.architecture`'s.

    Raises:
        Missing: `model.path` is not there and `model.architecture` names none. BadInput: its config can't be used.
    """
    if not model.path:
        return _of_config(pocket_entries(model.pocket), "pocket", "model.pocket")
    folder = Path(model.path)
    if (folder / "config.json").is_file():
        found = _of_config(_read(folder / "config.json"), folder.name, str(folder))
        if model.architecture and found.parameters != described(model.architecture).parameters:
            raise BadInput(
                f"model.path: {folder} holds a model of {found.parameters:,} parameters, model.architecture "
                f"{model.architecture} has {described(model.architecture).parameters:,}"
            )
        return found
    if model.architecture:
        return described(model.architecture)
    raise Missing(
        f"model.path: the folder {folder} is not there; download the model, or name its model.architecture: "
        f"{', '.join(described_names())}"
    )


def described_names() -> tuple[str, ...]:
    """The architectures that come with lamer."""
    return tuple(sorted(path.stem for path in DESCRIBED.glob("*.json")))


def described(name: str) -> Architecture:
    """One of `described_names`."""
    entries = _read(DESCRIBED / f"{name}.json")
    return _of_config(entries, name, str(entries.pop("source")))


def described_entries(name: str) -> dict[str, Any]:
    """What stands in the config.json of one of `described_names` that decides its shapes."""
    entries = _read(DESCRIBED / f"{name}.json")
    del entries["source"]
    return entries


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read: {error}") from error
    if not isinstance(entries, dict):
        raise BadInput(f"{path} holds a {type(entries).__name__}, not a model's configuration")
    return entries


def pocket_entries(sizes: PocketSettings) -> dict[str, Any]:
    """What `learner.pocket.model` makes of the sizes, with as many tokens as its tokenizer may have."""
    return {
        "model_type": "qwen3",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.context,
        "tie_word_embeddings": True,
    }


def _of_config(entries: dict[str, Any], name: str, source: str) -> Architecture:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        whole = AutoConfig.for_model(**entries)
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(whole)
        names = [name for name, _ in module.named_parameters()]
        return architecture_of(
            whole.get_text_config(),
            name,
            source,
            sum(parameter.numel() for parameter in module.parameters()),
            is_tied=bool(whole.tie_word_embeddings),
            has_head_norms=any("q_norm" in each for each in names),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"the architecture of {name} ({source}) can't be used: {error}") from error
