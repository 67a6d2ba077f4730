"""Bytes that a decoder layer keeps of each token for its backward pass.

Sums over the widths of its tensors: H hidden, I intermediate, Q all query heads, K all key heads; D is a head's width.
Masked attention copies queries and outputs into blocks of segments, q times as many rows as there are tokens, and keys
and values along paths, k times as many (`Gathered`).

    as transformers runs it      residual   feed-forward   attention                         head norms
    float32                      24 H       16 I           4 Q + (8 + 4/D) q Q + 8 k K       (8 + 4/D) (Q + K)
    bfloat16, weights float32    26 H        8 I           2 Q + (4 + 4/D) q Q + 4 k K       (6 + 4/D) (Q + K)
    bfloat16, weights bfloat16   16 H        8 I           2 Q + (4 + 4/D) q Q + 4 k K       (6 + 4/D) (Q + K)

Those were counted with hooks on saved tensors, and a test counts them again. FlexAttention gathers nothing: q = k = 1.
In a compiled layer what is cheap is computed again: only what matrix products and attention give is kept, and what
comes in.

    compiled, weights float32     6 H        6 I           4 Q + 4 K                         2 Q + 2 K
    compiled, weights bfloat16    4 H        6 I           4 Q + 4 K                         2 Q + 2 K

These agree with what was measured on an H100 (see the tests of this folder). Recomputed, a layer keeps what comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamer.learner.memory.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Gathered:
    """What masked attention copies, for each token of a pack: rows of queries, and of keys along paths."""

    queries: float = 1.0
    keys: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerRun:
    """How layers are run. is_bfloat16: the forward pass; has_small_weights: the weights, too.

    is_compiled, is_recomputed: as `trainer.compile` and `trainer.recompute` say. gathered: by masked attention; None
    for FlexAttention.
    """

    is_bfloat16: bool
    has_small_weights: bool
    is_compiled: bool
    is_recomputed: bool
    gathered: Gathered | None

    @property
    def residual_bytes(self) -> int:
        """Of a value between two layers."""
        return 2 if self.has_small_weights else 4


def layer_bytes(model: Architecture, run: LayerRun) -> float:
    """What one layer keeps of a token while it is computed with gradient, `is_recomputed` aside.

    Qwen3-4B, compiled: 6 x 2,560 + 6 x 9,728 + 6 x 4,096 + 6 x 1,024 = 104,448, 5,120 less with bfloat16 weights.
    """
    hidden, wide, query, key = model.hidden, model.intermediate, model.query_size, model.key_size
    if run.is_compiled:
        attention = 4 * (query + key) + (2 * (query + key) if model.has_head_norms else 0)
        return (2 + run.residual_bytes) * hidden + 6 * wide + attention
    gathered = run.gathered or Gathered()
    size, statistic = (2 if run.is_bfloat16 else 4), 4 / model.head_dim
    attention_bytes = size * query + (2 * size + statistic) * gathered.queries * query + 2 * size * gathered.keys * key
    norms = ((6 if run.is_bfloat16 else 8) + statistic) * (query + key) if model.has_head_norms else 0.0
    residual = 24 if not run.is_bfloat16 else 16 if run.has_small_weights else 26
    return residual * hidden + (4 * size if run.is_bfloat16 else 16) * wide + attention_bytes + norms


def kept_bytes(model: Architecture, run: LayerRun, tokens: int) -> float:
    """What all layers keep of a pack: everything, or, recomputed, what comes into each."""
    if run.is_recomputed:
        return float(tokens) * model.layers * run.residual_bytes * model.hidden
    return float(tokens) * model.layers * layer_bytes(model, run)
