"""Attention along shared prefixes by torch's FlexAttention: the backend of CUDA.

Samples are sorted when they are packed, so a pack's flat order is a preorder of the tree of their prefixes, and the
tokens whose path holds token j follow it without a gap. One integer a token says which they are:

    end[j] = one past the last token whose path holds j         token i sees token j   iff   j <= i < end[j]

Within a sliding window it sees j only where position[i] - position[j] < window: positions count along the path, and so
does the window; flat indices would count tokens of other samples as well.

Packs are padded to one static length, so that nothing is compiled or planned again for another one. A padding token
sees itself alone, and nobody sees it. `end` and `position` lie in one pair of buffers for each device and length, which
`FlexPlan.load` fills: the functions that read them stay the same objects, by which compiled code knows them again.
Which blocks of 128 tokens see each other is worked out once a pack and window.

FlexAttention (Dong et al., 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels") has
a fused kernel on CUDA only. On the CPU its forward pass runs unfused, which shows the same results.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from lamer.learner.trainer.model.attention.base import AttentionBackend, AttentionNeeds, AttentionPlan
from lamer.learner.trainer.model.moving import to_device
from lamer.learner.trainer.model.packing import Indices, Pack

FLEX = "lamer_flex"
BLOCK = 128
"""Tokens of a block: packs are padded to a multiple of it."""

_LEAST_HEAD_DIM = 16
"""Of the fused kernel; narrower heads are padded with zeros, which changes no score."""

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class TreeBuffers:
    """What mask functions read of the pack that is computed, at one length on one device.

    end, positions: int32 [T]. loaded: the plan that filled them, None if it is gone.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self.end = torch.arange(1, length + 1, dtype=torch.int32, device=device)
        self.positions = torch.zeros(length, dtype=torch.int32, device=device)
        self.loaded: Callable[[], object] = lambda: None
        self._functions: dict[int | None, MaskFunction] = {}

    def visible(self, window: int | None) -> MaskFunction:
        """The function that says what a query sees within a window; always the same object."""
        if window not in self._functions:
            self._functions[window] = self._along_the_path() if window is None else self._within(window)
        return self._functions[window]

    def _along_the_path(self) -> MaskFunction:
        end = self.end

        def is_seen(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < end[key])

        return is_seen

    def _within(self, window: int) -> MaskFunction:
        end, positions = self.end, self.positions

        def is_seen(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < end[key]) & (positions[query] - positions[key] < window)

        return is_seen


@cache
def _buffers(length: int, device: torch.device) -> TreeBuffers:
    """One for all models of a process."""
    return TreeBuffers(length, device)


@dataclass(frozen=True, eq=False)
class FlexPlan(AttentionPlan):
    """A pack as FlexAttention sees it. end, positions: int32 [T]. masks: by window."""

    needs: AttentionNeeds
    end: torch.Tensor
    positions: torch.Tensor
    buffers: TreeBuffers
    masks: dict[int | None, BlockMask] = field(default_factory=dict)

    def load(self) -> None:
        """Fill the buffers that mask functions read, unless they hold this pack."""
        if self.buffers.loaded() is not self:
            self.buffers.end.copy_(self.end)
            self.buffers.positions.copy_(self.positions)
            self.buffers.loaded = weakref.ref(self)

    def mask(self, window: int | None) -> BlockMask:
        """Which blocks see each other within a window; made once."""
        if window not in self.masks:
            self.load()
            length = len(self.end)
            self.masks[window] = create_block_mask(
                self.buffers.visible(window), None, None, length, length, device=self.end.device, BLOCK_SIZE=BLOCK
            )
        return self.masks[window]

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int | None
    ) -> torch.Tensor:
        """Attention of one layer, by the fused kernel where there is one."""
        if window not in self.masks:
            self.needs.see(window)
            self.mask(window)
        width = query.shape[-1]
        padding = max(0, _LEAST_HEAD_DIM - width)
        dtype = self.needs.dtype
        q, k, v = (
            F.pad(states.to(dtype), (0, padding)) if padding else states.to(dtype) for states in (query, key, value)
        )
        compute: Any = flex_attention
        if query.is_cuda and not torch.compiler.is_compiling():
            compute = _fused()
        output: torch.Tensor = compute(q, k, v, block_mask=self.masks[window], scale=scaling, enable_gqa=True)
        return output[..., :width].transpose(1, 2)


class FlexAttention(AttentionBackend):
    """Plans packs at one length."""

    def __init__(self, needs: AttentionNeeds, pack_tokens: int = 0) -> None:
        """pack_tokens: most tokens of a pack, all of which are padded to this; 0: each to its own next multiple of
        `BLOCK`.
        """
        super().__init__(needs)
        self._pack_tokens = pack_tokens

    def length(self, tokens: int) -> int:
        """The static length, or what a longer pack needs."""
        return -(-max(tokens, self._pack_tokens) // BLOCK) * BLOCK

    def plan(self, pack: Pack) -> FlexPlan:
        """The plan of a pack, with the masks that layers are known to need."""
        length = self.length(len(pack.ids))
        end = np.arange(1, length + 1, dtype=np.int32)
        end[: len(pack.ids)] = subtree_ends(pack)
        positions = np.zeros(length, dtype=np.int32)
        positions[: len(pack.ids)] = pack.positions
        device = self.needs.device
        plan = FlexPlan(
            self.needs,
            to_device(end, device),
            to_device(positions, device),
            _buffers(length, device),
        )
        for window in self.needs.windows:
            plan.mask(window)
        return plan


def subtree_ends(pack: Pack) -> Indices:
    """For each token of a pack one past the last token whose path holds it, int64 [T]."""
    end = np.zeros(len(pack.ids), dtype=np.int64)
    for segment in pack.segments:  # their last tokens ascend
        end[segment.path] = segment.path[-1] + 1
    return end


@cache
def _fused() -> Any:  # noqa: ANN401 - what torch makes of a function
    """FlexAttention outside of compiled layers: compiled by itself, since its unfused form holds all scores at once."""
    return torch.compile(flex_attention, dynamic=False)
