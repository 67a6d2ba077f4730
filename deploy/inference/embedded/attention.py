"""Attention of one packed step over the cache.

The tokens of a step lie flat: first one token for each decoding row, ascending, then chunks of prompts. A `StepLayout`
says which is which; it is computed once a step for each sliding window that layers have, and used by all of them. Three
kinds of attention:

    decode   all decoding rows in one batched product over the slice of rows they span, masked by length
    short    chunks of at most `SHORT` tokens, padded to one batch
    long     each longer chunk by itself, in blocks of queries
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from lamer.deploy.inference.embedded.cache import KVCache
from lamer.deploy.inference.embedded.products import matmul_transposed
from lamer.deploy.inference.embedded.table import RowArray

SHORT = 128
_BLOCK = 160
_ROUND = 32
_DENSE = 0.5


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start <= position < end` of the sequence in `row`, to be computed in this step."""

    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """rows: a slice where the decoding rows are dense, else their indices; place [D]: each token's row inside it.

    mask: additive [rows * kv_heads, 1, length], or None when there is nothing to mask.
    """

    rows: slice | torch.Tensor
    place: torch.Tensor | None
    count: int
    length: int
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class ShortPlan:
    """Padded chunks: rows [N]; gather [N, Q] flat token of each query; scatter: (flat, padded) places of real queries.

    mask: additive [N, 1, Q, length].
    """

    rows: torch.Tensor
    gather: torch.Tensor
    flat: torch.Tensor
    padded: torch.Tensor
    length: int
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class LongPlan:
    """One long chunk at flat tokens `first <= i < first + end - start`."""

    chunk: Chunk
    first: int


@dataclass(frozen=True, slots=True)
class StepLayout:
    """count: tokens T. slots [T * kv_heads]: where each one's key and value go in the flattened cache.

    window: how many tokens each one sees, itself included; None for all before it.
    """

    count: int
    slots: torch.Tensor
    decode: DecodePlan | None
    short: ShortPlan | None
    long: tuple[LongPlan, ...]
    window: int | None


def plan_layout(
    cache: KVCache,
    decode_rows: RowArray,
    decode_positions: RowArray,
    chunks: list[Chunk],
    flat_rows: RowArray,
    flat_positions: RowArray,
    window: int | None = None,
) -> StepLayout:
    """The layout of a step whose flat tokens are `decode_rows` int64 [D] and then `chunks`, in this order, for layers
    with a sliding window or without.
    """
    heads = np.arange(cache.shape.kv_heads)
    slots = ((flat_rows[:, None] * cache.shape.kv_heads + heads) * cache.capacity + flat_positions[:, None]).reshape(-1)
    first = len(decode_rows)
    short: list[tuple[Chunk, int]] = []
    long: list[tuple[Chunk, int]] = []
    for chunk in chunks:
        (short if chunk.end - chunk.start <= SHORT else long).append((chunk, first))
        first += chunk.end - chunk.start
    return StepLayout(
        count=len(flat_rows),
        slots=torch.from_numpy(slots),
        decode=_plan_decode(cache, decode_rows, decode_positions, window) if len(decode_rows) else None,
        short=_plan_short(short, window) if short else None,
        long=tuple(LongPlan(chunk, begin) for chunk, begin in long),
        window=window,
    )


def _allowed(length: int, last: RowArray, window: int | None) -> npt.NDArray[np.bool_]:
    """Which keys below `length` are seen from positions `last` [...]: [..., length]."""
    keys = np.arange(length)
    allowed: npt.NDArray[np.bool_] = keys <= last[..., None]
    return allowed if window is None else allowed & (keys > last[..., None] - window)


def _additive(allowed: npt.NDArray[np.bool_], dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~allowed), -torch.inf)


def _plan_decode(cache: KVCache, rows: RowArray, positions: RowArray, window: int | None) -> DecodePlan:
    low, high, length = int(rows[0]), int(rows[-1]) + 1, int(positions.max()) + 1
    is_dense = len(rows) >= _DENSE * (high - low)
    count = high - low if is_dense else len(rows)
    place = rows - low if is_dense else np.arange(len(rows))
    last = np.zeros(count, np.int64)
    last[place] = positions
    allowed = _allowed(length, last, window)
    mask = _additive(allowed, cache.shape.dtype).repeat_interleave(cache.shape.kv_heads, 0)[:, None]
    return DecodePlan(
        rows=slice(low, high) if is_dense else torch.from_numpy(rows),
        place=None if count == len(rows) else torch.from_numpy(place),
        count=count,
        length=length,
        mask=mask,
    )


def _plan_short(chunks: list[tuple[Chunk, int]], window: int | None) -> ShortPlan:
    sizes = np.array([chunk.end - chunk.start for chunk, _ in chunks])
    starts = np.array([chunk.start for chunk, _ in chunks])
    firsts = np.array([first for _, first in chunks])
    longest, length = int(sizes.max()), int((starts + sizes).max())
    query = np.arange(longest)
    is_real = query < sizes[:, None]
    gather = firsts[:, None] + np.minimum(query, sizes[:, None] - 1)
    allowed = _allowed(length, starts[:, None] + query, window)
    return ShortPlan(
        rows=torch.tensor([chunk.row for chunk, _ in chunks]),
        gather=torch.from_numpy(gather),
        flat=torch.from_numpy(gather[is_real]),
        padded=torch.from_numpy(np.flatnonzero(is_real)),
        length=length,
        mask=_additive(allowed, torch.float32)[:, None],
    )


def attend(
    cache: KVCache,
    layout: StepLayout,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Writes `key` and `value` [N, kv_heads, D] to the cache and attends with `query` [N, heads, D]; [N, heads, D].

    The first T of the N tokens are the step's; the others fill it up to a length, their result is zero.
    """
    keys, values = cache.keys[layer], cache.values[layer]
    width, count = key.shape[-1], layout.count
    keys.view(-1, width).index_copy_(0, layout.slots, key[:count].reshape(-1, width))
    values.view(-1, width).index_copy_(0, layout.slots, value[:count].reshape(-1, width))
    decode = layout.decode
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    out[count:] = 0
    if decode is not None:
        count = len(decode.place) if decode.place is not None else decode.count
        out[:count] = _attend_decode(decode, query[:count], keys, values, scaling)
    if layout.short is not None:
        _attend_short(layout.short, query, keys, values, scaling, out)
    for plan in layout.long:
        _attend_long(plan, query, keys, values, scaling, layout.window, out)
    return out


def _attend_decode(
    plan: DecodePlan, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> torch.Tensor:
    """One query a row: query [D, heads, head_dim] against each row's first `length` keys. Query heads that share a
    key head become the rows of one product.
    """
    heads, width, kv_heads = query.shape[1], query.shape[2], keys.shape[1]
    if plan.place is not None:
        spread = query.new_zeros((plan.count, heads, width))
        query = spread.index_copy_(0, plan.place, query)
    grouped = query.reshape(plan.count * kv_heads, heads // kv_heads, width)
    key = keys[plan.rows, :, : plan.length].flatten(0, 1)
    value = values[plan.rows, :, : plan.length].flatten(0, 1)
    scores = torch.baddbmm(plan.mask, grouped, key.transpose(1, 2), alpha=scaling)
    out = torch.bmm(torch.softmax(scores, -1), value).view(plan.count, heads, width)
    return out if plan.place is None else out[plan.place]


def _attend_short(
    plan: ShortPlan, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, out: torch.Tensor
) -> None:
    attended = F.scaled_dot_product_attention(
        query[plan.gather].transpose(1, 2),
        keys[plan.rows, :, : plan.length],
        values[plan.rows, :, : plan.length],
        attn_mask=plan.mask.to(query.dtype),
        scale=scaling,
        enable_gqa=True,
    )
    out[plan.flat] = attended.transpose(1, 2).flatten(0, 1)[plan.padded]


def _attend_long(
    plan: LongPlan,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    window: int | None,
    out: torch.Tensor,
) -> None:
    """`_BLOCK` queries at a time against the keys up to the last of them, for each key head; its query heads together.

    `matmul_transposed` makes this twice as fast as torch's attention kernel. Both lengths are rounded up to multiples
    of `_ROUND`, for few shapes: what the queries beyond the block give is dropped, and the keys beyond it are masked.
    """
    chunk, group, width = plan.chunk, query.shape[1] // keys.shape[1], query.shape[-1]
    future = torch.full((_BLOCK, _BLOCK + _ROUND), -torch.inf, dtype=query.dtype).triu_(1)[:, None]
    for start in range(chunk.start, chunk.end, _BLOCK):
        count, first = min(_BLOCK, chunk.end - start), plan.first + start - chunk.start
        asked = min(-(-count // _ROUND) * _ROUND, len(query) - first)
        length = min(-(-(start + count) // _ROUND) * _ROUND, keys.shape[2])
        ahead = length - start
        past = None if window is None or window >= length else _past(start, asked, length, window, query.dtype)
        for head in range(keys.shape[1]):
            heads = slice(head * group, (head + 1) * group)
            part = (query[first : first + asked, heads] * scaling).reshape(-1, width)
            scores = matmul_transposed(part, keys[chunk.row, head, :length])
            scores.view(asked, group, length)[:, :, start:] += future[:asked, :, :ahead]
            if past is not None:
                scores.view(asked, group, length).add_(past)
            attended = matmul_transposed(torch.softmax(scores, -1), values[chunk.row, head, :length].t())
            out[first : first + count, heads] = attended.view(asked, group, width)[:count]


def _past(start: int, count: int, length: int, window: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive [count, 1, length]: what lies before the windows of the queries from position `start` on."""
    last = torch.arange(start, start + count)[:, None]
    beyond = torch.arange(length) <= last - window
    return torch.zeros(count, length, dtype=dtype).masked_fill_(beyond, -torch.inf)[:, None]
