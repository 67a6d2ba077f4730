"""Attention along shared prefixes in masked blocks of segments: the backend of CPUs.

The model runs over the flat tokens of a pack ([1, T]). Each segment's tokens attend to the positions on their path up
to themselves, so a prefix that many samples share is computed once and every one of them attends to it. Segments of
similar size are padded into blocks; a block gathers its queries, keys and values and runs one scaled dot-product
attention:

    queries  [n, Lq]   flat indices of the segments' own tokens          mask: key position <= query position,
    keys     [n, Lk]   flat indices along the segments' paths            which leaves padded keys out as well

Positions along a path are those of its sequence, so a layer's sliding window is a band of the same mask. A mask is
added to the scores, in their dtype (0, or -inf where a key is not seen), and every layer that attends within the same
window adds the very same tensor: scaled dot-product attention would make such a mask of a boolean one in each layer,
and keep it for the backward pass.

Query heads that share a key head (grouped-query attention) are folded into the query axis, so that keys and values are
never repeated. Gathering goes through `embedding`, whose backward pass sums in a fixed order on CPU and on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from lamer.learner.trainer.model.attention.base import AttentionBackend, AttentionNeeds, AttentionPlan
from lamer.learner.trainer.model.moving import to_device
from lamer.learner.trainer.model.packing import Indices, Pack, Segment

MASKED = "lamer_masked"

_PADDING_ALLOWED = 1.25
_FREE_SCORES = 65_536
_MOST_SCORES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Segments padded to one size.

    queries: int64 [n, Lq]. keys: int64 [n, Lk]. starts: int64 [n], where on its path a segment's first query stands.
    masks: by window, [n, 1, groups * Lq, Lk].
    """

    queries: torch.Tensor
    keys: torch.Tensor
    starts: torch.Tensor
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, needs: AttentionNeeds) -> torch.Tensor:
        """What is added to the scores of layers that attend within `window`; made once."""
        key = None if window is None or window >= self.keys.shape[1] else window
        if key not in self.masks:
            hidden = ~self._seen(key).repeat(1, needs.groups, 1)[:, None]
            mask = torch.zeros(hidden.shape, dtype=needs.dtype, device=needs.device)
            self.masks[key] = mask.masked_fill_(hidden, -torch.inf)
        return self.masks[key]

    def _seen(self, window: int | None) -> torch.Tensor:
        """Which keys each query sees, bool [n, Lq, Lk]: those before it on its path, less any further away than a
        window.
        """
        queries, keys = (torch.arange(part.shape[1], device=part.device) for part in (self.queries, self.keys))
        seen = keys <= (self.starts[:, None] + queries)[:, :, None]
        if window is None:
            return seen
        behind = seen.sum(-1, keepdim=True) - window  # a query sees itself and all before it: so many too many
        return seen & (keys >= behind)


@dataclass(frozen=True, slots=True)
class MaskedPlan(AttentionPlan):
    """How the flat tokens of a pack attend, block by block. order: int64 [T], where each token's output stands in the
    blocks' outputs.
    """

    needs: AttentionNeeds
    blocks: tuple[Block, ...]
    order: torch.Tensor

    def load(self) -> None:
        """Nothing: layers are handed all of the plan."""

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int | None
    ) -> torch.Tensor:
        """Attention of one layer, block by block."""
        heads, tokens, head_dim = query.shape[1:]
        flat_query, flat_key, flat_value = (
            states[0].transpose(0, 1).reshape(tokens, -1) for states in (query, key, value.to(key.dtype))
        )
        if window not in self.needs.windows:
            self.needs.see(window)
        scores = [
            _attend(block, flat_query, flat_key, flat_value, key.shape[1], scaling, block.mask(window, self.needs))
            for block in self.blocks
        ]
        joined = scores[0] if len(scores) == 1 else torch.cat(scores)
        return F.embedding(self.order, joined).view(1, tokens, heads, head_dim)


class MaskedAttention(AttentionBackend):
    """Plans packs as blocks."""

    def length(self, tokens: int) -> int:
        """The pack's own tokens: nothing is padded."""
        return tokens

    def plan(self, pack: Pack) -> MaskedPlan:
        """The blocks of a pack, with the masks that layers are known to need."""
        planned = [_block(segments, self.needs.device) for segments in _partition(pack.segments)]
        targets = np.concatenate([positions for _, positions in planned])
        order = np.empty(len(pack.ids), dtype=np.int64)
        real = np.flatnonzero(targets >= 0)
        order[targets[real]] = real
        blocks = tuple(block for block, _ in planned)
        for block in blocks:
            for window in self.needs.windows:
                block.mask(window, self.needs)
        return MaskedPlan(self.needs, blocks, to_device(order, self.needs.device))


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


def _block(segments: Sequence[Segment], device: torch.device) -> tuple[Block, Indices]:
    """A block, and where its queries' outputs go: flat token index of each of n * Lq outputs, -1 for padding."""
    own = [segment.path[segment.start :] for segment in segments]
    most_queries, most_keys = max(map(len, own)), max(len(segment.path) for segment in segments)
    queries = _pad(own, most_queries)
    targets = np.where(np.arange(most_queries) < np.array([len(row) for row in own])[:, None], queries, -1)
    block = Block(
        queries=to_device(queries, device),
        keys=to_device(_pad([segment.path for segment in segments], most_keys), device),
        starts=torch.tensor([segment.start for segment in segments], device=device),
    )
    return block, targets.reshape(-1)


def _attend(
    block: Block,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_heads: int,
    scaling: float,
    mask: torch.Tensor,
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
    q, k, v = (states.to(mask.dtype) for states in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    out = out.view(count, key_heads, groups, queries, head_dim).permute(0, 3, 1, 2, 4)
    return out.reshape(count * queries, key_heads * groups * head_dim)
