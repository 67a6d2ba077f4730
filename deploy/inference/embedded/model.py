"""The model: loading a folder, and the packed forward of one step.

Models of Llama's shape go through `decoder.DirectDecoder`. For others transformers runs the layers: `PackedModel`
registers its own attention with it (`attention.attend`), so that any decoder-only model whose layers all attend fully
works. At load, the packed forward is compared with transformers' own on a few tokens, and a model it does not
reproduce is refused.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lamer.common.errors import BadInput
from lamer.deploy.inference.embedded.attention import Chunk, StepLayout, attend, plan_layout
from lamer.deploy.inference.embedded.cache import CacheShape, KVCache
from lamer.deploy.inference.embedded.decoder import DirectDecoder, fits
from lamer.deploy.inference.embedded.products import padded_length
from lamer.deploy.inference.embedded.table import RowArray
from lamer.deploy.inference.embedded.weights import load_in_place

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
_FIRST_CAPACITY = 128


@dataclass(frozen=True)
class StepInput:
    """One step: flat ids, rows and positions int64 [T] (decode tokens first, then `chunks`), and the flat places whose
    logits are wanted, int64 [S].
    """

    ids: RowArray
    rows: RowArray
    positions: RowArray
    decode_count: int
    chunks: list[Chunk]
    wanted: RowArray


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    if not (folder / "config.json").is_file():
        raise BadInput(f"no model in {folder}: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        _check_config(config)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"can't load the model in {folder}: {' '.join(str(error).split())[:300]}") from error
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _check_config(config: PreTrainedConfig) -> None:
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    if kinds != {"full_attention"}:
        raise BadInput(f"the embedded engine runs models with full attention only, this one has {sorted(kinds)}")


def _pad(flat: RowArray) -> torch.Tensor:
    """`flat` int64 [N], followed by zeros up to one of few lengths: of those, oneDNN has its kernels ready."""
    padded = np.zeros(padded_length(len(flat)), np.int64)
    padded[: len(flat)] = flat
    return torch.from_numpy(padded)


class PackedModel:
    """A causal language model, its cache, and the forward over both."""

    def __init__(self, folder: Path, dtype: str, max_running: int, max_total_tokens: int) -> None:
        """Loads `folder`. Raises BadInput when it is no model, or one whose forward can't be packed."""
        self.folder = folder
        torch_dtype = DTYPES[dtype]
        self.module = _load(folder, torch_dtype)
        config = self.module.config
        self.context = int(config.max_position_embeddings)
        self.vocabulary = int(config.vocab_size)
        heads = int(config.num_attention_heads)
        shape = CacheShape(
            layers=int(config.num_hidden_layers),
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
            dtype=torch_dtype,
        )
        capacity = min(_FIRST_CAPACITY, self.context)
        self.cache = KVCache(shape, max_total_tokens, max_running, capacity)
        self._layout: StepLayout | None = None
        with torch.inference_mode():
            self._direct = (
                DirectDecoder(self.module, min(self.context, max_total_tokens)) if fits(self.module) else None
            )
        self._install()

    def _install(self) -> None:
        """Registers the attention under a name of this model's own, after comparing it with transformers'."""
        ids = torch.arange(8)[None] % self.vocabulary
        with torch.inference_mode():
            expected = self.module(input_ids=ids, use_cache=False).logits[0].float()
        name = f"lamer_packed_{id(self):x}"
        ALL_ATTENTION_FUNCTIONS.register(name, self._attention)
        self.module.set_attn_implementation(name)
        flat = ids[0].numpy()
        places = torch.arange(8).numpy()
        step = StepInput(flat, 0 * flat, places, 0, [Chunk(0, 0, 8)], places)
        gap = float((self.forward(step).float() - expected).abs().max())
        if not gap <= _TOLERANCE[self.cache.shape.dtype] * max(1.0, float(expected.abs().max())):
            kind = self.module.config.model_type
            raise BadInput(
                f"the embedded engine does not reproduce models of type {kind!r} (logits differ by {gap:.2g})"
            )

    def _attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """What transformers calls: query, key and value [1, heads, T, head_dim] -> ([1, T, heads, head_dim], None)."""
        if self._layout is None:
            raise RuntimeError("the packed attention was called outside of a step")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        layer = cast(int, module.layer_idx)
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return attend(self.cache, self._layout, layer, query, key, value, scale)[None], None

    def forward(self, step: StepInput) -> torch.Tensor:
        """Logits [S, V] of the wanted tokens; keys and values of all the step's tokens are then in the cache."""
        count = step.decode_count
        self._layout = layout = plan_layout(
            self.cache, step.rows[:count], step.positions[:count], step.chunks, step.rows, step.positions
        )
        ids, positions, wanted = map(_pad, (step.ids, step.positions, step.wanted))
        try:
            with torch.inference_mode():
                if self._direct is not None:
                    attention = functools.partial(attend, self.cache, layout)
                    return self._direct.forward(ids, positions, wanted, attention)[: len(step.wanted)]
                logits = self.module(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=wanted
                ).logits
        finally:
            self._layout = None
        return cast(torch.Tensor, logits[0, : len(step.wanted)])

    def load_weights(self, folder: Path) -> None:
        """Replaces the weights in place, all or nothing (`weights.load_in_place`), and forgets every known prefix."""
        load_in_place(self.module, folder)
        self.cache.forget()
        self.folder = folder
