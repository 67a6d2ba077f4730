"""A direct forward for decoders of Llama's shape, straight from the weights that transformers loaded.

Per layer: RMSNorm, rotary attention (Qwen3: with query and key norms), RMSNorm, SwiGLU. Beside transformers' own
forward it saves the work in Python around each module, computes the rotary angles once, and multiplies by oneDNN
(`products`). It holds no weights of its own: loading in place changes what it computes. `PackedModel` compares it with
transformers' forward when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from lamer.deploy.inference.embedded.products import matmul_transposed

MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3"})
_ROPE_TYPES = frozenset({"default", "linear", "llama3"})  # angles depend on the position only

Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, float, int | None], torch.Tensor]


def linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`module(x)` for x [N, K]."""
    return matmul_transposed(x, module.weight, module.bias)


def _rms_norm(module: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - each model type has a class of its own
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def fits(model: PreTrainedModel) -> bool:
    """Whether `DirectDecoder` can compute this model."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in MODEL_TYPES
        and rope.get("rope_type", "default") in _ROPE_TYPES
        and config.hidden_act == "silu"
    )


class DirectDecoder:
    """The forward of one loaded model, over flat tokens. context: positions are smaller than this."""

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        self._model: Any = model
        cos, sin = self._model.model.rotary_emb(self._model.model.embed_tokens.weight[:1], torch.arange(context)[None])
        half = cos.shape[-1] // 2
        self._cos = cos[0]  # [context, head_dim]
        self._sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)  # its sign is that of rotate_half

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """Logits [S, V] of the flat places `wanted` int64 [S], from ids and positions int64 [T].

        `attention(layer, query [T, heads, D], key [T, kv_heads, D], value [T, kv_heads, D], scaling, window)` -> as
        query.
        """
        decoder = self._model.model
        hidden = F.embedding(ids, decoder.embed_tokens.weight)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        for index, layer in enumerate(decoder.layers):
            hidden += self._attend(
                layer.self_attn, index, _rms_norm(layer.input_layernorm, hidden), cos, sin, attention
            )
            hidden += self._feed_forward(layer.mlp, _rms_norm(layer.post_attention_layernorm, hidden))
        return linear(self._model.lm_head, _rms_norm(decoder.norm, hidden[wanted]))

    def _attend(
        self,
        module: Any,  # noqa: ANN401
        layer: int,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attention: Attention,
    ) -> torch.Tensor:
        shape = (len(x), -1, module.head_dim)
        query, key, value = (linear(part, x).view(shape) for part in (module.q_proj, module.k_proj, module.v_proj))
        if hasattr(module, "q_norm"):
            query, key = _rms_norm(module.q_norm, query), _rms_norm(module.k_norm, key)
        window = getattr(module, "sliding_window", None)
        attended = attention(layer, _rotate(query, cos, sin), _rotate(key, cos, sin), value, module.scaling, window)
        return linear(module.o_proj, attended.reshape(len(x), -1))

    def _feed_forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        gate = F.silu(linear(module.gate_proj, x), inplace=True)
        gate *= linear(module.up_proj, x)
        return linear(module.down_proj, gate)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions for x [T, heads, D]; cos and signed sin [T, 1, D]."""
    turned = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos, turned, sin)
