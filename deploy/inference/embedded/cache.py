"""Keys and values: one row of `capacity` tokens for each running or remembered sequence.

Layout: `keys[layer]` and `values[layer]` are [rows, kv_heads, capacity, head_dim]. Running sequences take the lowest
rows, so that a decode step reads them as one slice without gathering; a finished sequence stays where it ran as a
remembered prefix until its row is needed, is then moved to a free row, or dropped when it is the least recently used.
rows * capacity never exceeds the token limit; `reshape` trades one for the other when longer requests arrive.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from lamer.deploy.inference.embedded.prefix import PrefixIndex
from lamer.deploy.inference.embedded.sequence import IdArray

_ROUND = 32
_MOST_ROWS = 2048


@dataclass(frozen=True)
class CacheShape:
    """What one token takes: layers * 2 * kv_heads * head_dim numbers of `dtype`."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


class KVCache:
    """Rows of keys and values, which of them run, which are remembered, and the prefixes they offer."""

    def __init__(self, shape: CacheShape, max_tokens: int, max_running: int, capacity: int) -> None:
        self.shape = shape
        self.max_tokens = max_tokens
        self.max_running = max_running
        self.index = PrefixIndex()
        self.running: set[int] = set()
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self._idle: list[int] = []  # heap of the rows that do not run
        self._free: list[int] = []  # sorted: those of them that remember nothing either
        # One buffer for every shape, so that its pages are mapped once: numpy's zeros are mapped on their first write.
        numbers = shape.layers * 2 * shape.kv_heads * shape.head_dim * max_tokens
        self._buffer = torch.from_numpy(np.zeros(numbers * shape.dtype.itemsize, np.uint8)).view(shape.dtype)
        self.capacity = 0
        self.rows = 0
        self._allocate(min(capacity, max_tokens))

    def _allocate(self, capacity: int) -> None:
        self.capacity = min(self.max_tokens, -(-capacity // _ROUND) * _ROUND)
        self.rows = max(1, min(self.max_tokens // self.capacity, _MOST_ROWS))
        size = (self.shape.layers, 2, self.rows, self.shape.kv_heads, self.capacity, self.shape.head_dim)
        self.data = self._buffer[: math.prod(size)].view(size)
        self.keys = [self.data[layer, 0] for layer in range(self.shape.layers)]
        self.values = [self.data[layer, 1] for layer in range(self.shape.layers)]
        self._free = [row for row in range(self.rows) if row not in self.running]
        self._idle = list(self._free)

    @property
    def most_running(self) -> int:
        """How many sequences can run at once with the present capacity of a row."""
        return min(self.rows, self.max_running)

    def can_reshape(self, capacity: int) -> bool:
        """Whether every running row would still exist if rows held `capacity` tokens."""
        rounded = min(self.max_tokens, -(-capacity // _ROUND) * _ROUND)
        return max(self.running, default=-1) < self.max_tokens // rounded

    def reshape(self, capacity: int) -> None:
        """Gives rows `capacity` tokens. Running rows keep their place and content; remembered ones are dropped.

        The caller has checked that no running sequence needs more than `capacity`, and `can_reshape`.
        """
        for row in [*self._remembered]:
            self._drop(row)
        count, width = max(self.running, default=-1) + 1, self.capacity
        kept = self.data[:, :, :count].clone()
        self._allocate(capacity)
        width = min(width, self.capacity)
        self.data[:, :, :count, :, :width] = kept[:, :, :, :, :width]

    def take_row(self, tokens: IdArray, hashes: tuple[int, ...], most_reused: int) -> tuple[int, int]:
        """The lowest row that does not run, holding the longest known prefix of `tokens` int32 [N]: (row, length).

        At most `most_reused` < N tokens are reused; the caller needs the logits of the others. A row must be free
        (`len(running) < most_running`).
        """
        row = heapq.heappop(self._idle)
        source, length = self.index.find(tokens, hashes)
        length = min(length, most_reused)
        if source in self._remembered:
            self._remembered.move_to_end(source)
        if row not in self._remembered:
            del self._free[bisect.bisect_left(self._free, row)]
        elif source == row and length == len(self.index.tokens(row)):
            self._drop(row)  # all that it remembers becomes part of the new sequence
        else:
            self._make_room(row)
        if length and source != row:
            self.data[:, :, row, :, :length] = self.data[:, :, source, :, :length]
        self.running.add(row)
        return row, length

    def _make_room(self, row: int) -> None:
        """Moves what `row` remembers to a free row, or to that of the least recently used, which is forgotten.

        The content of `row` itself is left in place, so that its new owner can go on from it.
        """
        target = self._free.pop() if self._free else next(iter(self._remembered))
        if target in self._remembered:
            self._drop(target)
        if target == row:
            return
        length = len(self.index.tokens(row))
        self.data[:, :, target, :, :length] = self.data[:, :, row, :, :length]
        self.index.move(row, target)
        del self._remembered[row]
        self._remembered[target] = None

    def _drop(self, row: int) -> None:
        self._remembered.pop(row, None)
        self.index.withdraw(row)

    def leave_row(self, row: int, remembered: IdArray | None, hashes: tuple[int, ...]) -> None:
        """The sequence in `row` has ended; `remembered` int32 [N] are tokens whose keys and values stay of use."""
        self.running.discard(row)
        heapq.heappush(self._idle, row)
        self.index.withdraw(row)
        source, length = (-1, 0) if remembered is None else self.index.find(remembered, hashes)
        is_known = remembered is not None and source in self._remembered and length == len(remembered)
        if is_known:
            self._remembered.move_to_end(source)
        if remembered is None or not hashes or is_known:
            bisect.insort(self._free, row)
            return
        if source in self._remembered and length == len(self.index.tokens(source)):
            self._drop(source)  # the new one continues it
            bisect.insort(self._free, source)
        self.index.offer(row, remembered, hashes)
        self._remembered[row] = None

    def forget(self) -> None:
        """Drops every known prefix: after a weight update, or on request. Running rows keep their content."""
        self.index.clear()
        for row in self._remembered:
            bisect.insort(self._free, row)
        self._remembered.clear()

    @property
    def remembered_tokens(self) -> int:
        """Tokens held for reuse by rows that do not run."""
        return sum(len(self.index.tokens(row)) for row in self._remembered)

    def check_integrity(self) -> None:
        """Raises AssertionError if a row both runs and is remembered, or a remembered row offers nothing."""
        groups = (self.running, set(self._remembered), set(self._free))
        assert sum(map(len, groups)) == len(set().union(*groups)) == self.rows, f"rows lost or in two states: {groups}"
        assert set(self._idle) == groups[1] | groups[2], f"idle rows {self._idle} are not those that do not run"
        assert all(row in self.index for row in self._remembered), "a remembered row offers nothing"
