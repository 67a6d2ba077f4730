"""Attention along shared prefixes, as an attention function of transformers.

The model runs over the flat tokens of a pack ([1, T]). Each segment's tokens attend to the positions on their path up
to themselves, so a prefix that many samples share is computed once and every one of them attends to it. Segments of
similar size are padded into blocks; a block gathers its queries, keys and values and runs one scaled dot-product
attention:

    queries  [n, Lq]   flat indices of the segments' own tokens          mask: key position <= query position,
    keys     [n, Lk]   flat indices along the segments' paths            which leaves padded keys out as well

Positions along a path are those of its sequence, so a layer's sliding window is a band of the same mask.

Query heads that share a key head (grouped-query attention) are folded into the query axis, so that keys and values are
never repeated. Gathering goes through `embedding`, whose backward pass sums in a fixed order on CPU and on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lamer.common.errors import BadInput
from lamer.learner.fitness.attention import refuse_arguments
from lamer.learner.trainer.model.packing import Indices, Pack, Segment

SHARED_PREFIX = "lamer_shared_prefix"

_PADDING_ALLOWED = 1.25
_FREE_SCORES = 65_536
_MOST_SCORES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Segments padded to one size.

    queries: int64 [n, Lq]. keys: int64 [n, Lk]. mask: bool [n, 1, groups * Lq, Lk], groups = query heads of one key
    head.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefixLayout:
    """How the flat tokens of a pack attend. order: int64 [T], where each token's output stands in the blocks'
    outputs.
    """

    blocks: tuple[Block, ...]
    order: torch.Tensor


def _partition(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments in order of size, cut where padding them to the largest so far would waste too much."""
    block: list[Segment] = []
    exact = most_queries = most_keys = 0
    for segment in sorted(segments, key=lambda item: (len(item.path) - item.start, len(item.path))):
        keys = len(segment.path)
        queries = keys - segment.start
        longest = max(most_keys, keys)
        padded = (len(block) + 1) * max(most_queries, queries) * longest
        if block and (padded > _PADDING_ALLOWED * (exact + queries * keys) + _FREE_SCORES or padded > _MOST_SCORES):
            yield block
            block, exact, most_queries, longest = [], 0, 0, keys
        block.append(segment)
        exact += queries * keys
        most_queries, most_keys = max(most_queries, queries), longest
    if block:
        yield block


def _pad(rows: Sequence[Indices], width: int) -> Indices:
    padded = np.zeros((len(rows), width), dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _block(segments: Sequence[Segment], groups: int, device: torch.device) -> tuple[Block, Indices]:
    """A block, and where its queries' outputs go: flat token index of each of n * Lq outputs, -1 for padding."""
    own = [segment.path[segment.start :] for segment in segments]
    most_queries, most_keys = max(map(len, own)), max(len(segment.path) for segment in segments)
    starts = torch.tensor([segment.start for segment in segments], device=device)
    query_positions = starts[:, None] + torch.arange(most_queries, device=device)
    mask = torch.arange(most_keys, device=device) <= query_positions[:, :, None]
    queries = _pad(own, most_queries)
    targets = np.where(np.arange(most_queries) < np.array([len(row) for row in own])[:, None], queries, -1)
    block = Block(
        queries=torch.from_numpy(queries).to(device),
        keys=torch.from_numpy(_pad([segment.path for segment in segments], most_keys)).to(device),
        mask=mask.repeat(1, groups, 1)[:, None],
    )
    return block, targets.reshape(-1)


def plan_layout(pack: Pack, groups: int, device: torch.device) -> PrefixLayout:
    """The layout of a pack.

    Args:
        pack: whose segments to lay out.
        groups: query heads of one key head.
        device: where the model is.
    """
    planned = [_block(segments, groups, device) for segments in _partition(pack.segments)]
    targets = np.concatenate([positions for _, positions in planned])
    order = np.empty(len(pack.ids), dtype=np.int64)
    real = np.flatnonzero(targets >= 0)
    order[targets[real]] = real
    return PrefixLayout(tuple(block for block, _ in planned), torch.from_numpy(order).to(device))


def _mask(block: Block, window: int | None) -> torch.Tensor:
    """The block's mask, less the keys `window` positions and more before a query."""
    keys = block.keys.shape[1]
    if window is None or window >= keys:
        return block.mask
    behind = block.mask.sum(-1, keepdim=True) - window  # a query sees itself and all before it: so many too many
    return block.mask & (torch.arange(keys, device=block.mask.device) >= behind)


def _attend(
    block: Block,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_heads: int,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """One block: query [T, H * D], key and value [T, Hk * D] -> [n * Lq, H * D]."""
    count, queries = block.queries.shape
    keys = block.keys.shape[1]
    head_dim = key.shape[1] // key_heads
    groups = query.shape[1] // key.shape[1]
    q = F.embedding(block.queries, query).view(count, queries, key_heads, groups, head_dim)
    q = q.permute(0, 2, 3, 1, 4).reshape(count, key_heads, groups * queries, head_dim)
    k = F.embedding(block.keys, key).view(count, keys, key_heads, head_dim).transpose(1, 2)
    v = F.embedding(block.keys, value).view(count, keys, key_heads, head_dim).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(block, window), scale=scaling)
    out = out.view(count, key_heads, groups, queries, head_dim).permute(0, 3, 1, 2, 4)
    return out.reshape(count * queries, key_heads * groups * head_dim)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    prefix_layout: PrefixLayout | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, called by transformers.

    Args:
        module: the layer, unused.
        query: [1, H, T, D], rotated.
        key: [1, Hk, T, D], rotated.
        value: [1, Hk, T, D].
        attention_mask: None; transformers builds none for this function.
        scaling: of the scores.
        prefix_layout: the pack's layout, handed to the model's forward call.
        sliding_window: of the layer, itself included; None for full attention.
        dropout: 0: none is computed.
        is_causal: not False: a token sees those before it.
        others: whatever else the architecture has; refused unless it changes nothing.

    Returns:
        the output [1, T, H, D] and no weights.

    Raises:
        BadInput: the layer attends in a way that is not computed here.
    """
    refuse_arguments(attention_mask, dropout, is_causal, others)
    if prefix_layout is None:
        raise BadInput("its layers do not hand the layout of a pack on to their attention")
    heads, tokens, head_dim = query.shape[1:]
    key_heads = key.shape[1]
    flat_query, flat_key, flat_value = (
        states[0].transpose(0, 1).reshape(tokens, -1) for states in (query, key, value.to(key.dtype))
    )
    scores = [
        _attend(block, flat_query, flat_key, flat_value, key_heads, scaling, sliding_window)
        for block in prefix_layout.blocks
    ]
    joined = scores[0] if len(scores) == 1 else torch.cat(scores)
    return F.embedding(prefix_layout.order, joined).view(1, tokens, heads, head_dim), None


ALL_ATTENTION_FUNCTIONS.register(SHARED_PREFIX, shared_prefix_attention)
