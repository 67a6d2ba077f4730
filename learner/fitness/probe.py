"""A small model with every kind of layer that a configuration has, to compare our forward passes with transformers'.

What a model does only beyond a few tokens, as with a sliding window, shows on none of the sequences that a large model
could be tried on at every load. The probe has one period of the layers, at their real width, feed-forward layers and
vocabulary cut, windows cut to `WINDOW`, and random weights under which every part matters. Its sequences have `TOKENS`.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from lamer.common.errors import BadInput

WINDOW = 8
TOKENS = 32
TOLERANCE = 1e-4
_LEAST_LAYERS = 4
_MOST_PERIOD = 12
_VOCABULARY = 64
_FEED_FORWARD = 64


def probe_entries(entries: dict[str, Any], layers_key: str = "num_hidden_layers") -> dict[str, Any]:
    """The entries of a configuration (`to_dict`), cut to those of its probe. layers_key: that counts layers."""
    layers = int(entries[layers_key])
    by_layer = {key: value for key, value in entries.items() if isinstance(value, list) and len(value) == layers}
    kept = _layers([json.dumps([value[at] for value in by_layer.values()]) for at in range(layers)])
    cut = {key: _smaller(key, value) for key, value in entries.items()}
    cut |= {key: [_smaller(key, value[at]) for at in kept] for key, value in by_layer.items()}
    return {**cut, layers_key: len(kept)}


def _layers(kinds: list[str]) -> list[int]:
    """Layers to keep, of those whose kinds are given: whole periods, `_LEAST_LAYERS` and more; where it does not
    repeat soon, one of each kind.
    """
    period = next(size for size in range(1, len(kinds) + 1) if kinds == (kinds[:size] * len(kinds))[: len(kinds)])
    if period > _MOST_PERIOD:
        return [at for at, kind in enumerate(kinds) if kind not in kinds[:at]]
    return list(range(min(len(kinds), -(-_LEAST_LAYERS // period) * period)))


def _smaller(key: str, value: Any) -> Any:  # noqa: ANN401 - an entry of a configuration
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if key.endswith(("window", "window_size", "chunk_size")):
        return min(value, WINDOW)
    if key.endswith("intermediate_size"):
        return min(value, _FEED_FORWARD)
    if key == "max_position_embeddings":
        return max(value, 2 * TOKENS)
    if key == "pad_token_id":
        return min(value, _VOCABULARY - 1)
    return min(value, _VOCABULARY) if key == "vocab_size" else value


def make_probe(config: PreTrainedConfig) -> PreTrainedModel:
    """The probe of a configuration, in float32 on the CPU, attending as transformers does ("eager").

    Raises:
        BadInput: the configuration can't be cut.
    """
    try:
        layers_key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        small = AutoConfig.for_model(**probe_entries(config.to_dict(), layers_key))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                small, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
            )
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
                else:
                    torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"models of type {config.model_type!r} can't be tried in small: {said}") from error
    return model.eval().requires_grad_(False)
