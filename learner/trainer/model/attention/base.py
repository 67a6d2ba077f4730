"""What an attention backend is: it plans a pack once, and computes the attention of every layer from that plan.

    AttentionPlan      a pack's masks on the device: one for each window, shared by all layers
    AttentionBackend   makes plans

transformers calls `prefix_attention` for every layer, and layers hand it the plan as the argument `attention_plan` of
the model's forward call.

Which windows the layers of a model have is not read from its configuration, where every architecture says it in its own
way: a plan that is asked for a window makes its mask then, and the backend makes it for all packs after that. Inside
compiled code nothing is made; a model computes a pack before its layers are compiled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lamer.common.errors import BadInput
from lamer.learner.fitness.attention import refuse_arguments
from lamer.learner.trainer.model.packing import Pack

PREFIX = "lamer_prefix"
"""What transformers knows `prefix_attention` by."""


class AttentionPlan(ABC):
    """How the tokens of one pack attend.

    A pack is planned, computed forwards and backwards, before the next one is planned.
    """

    @abstractmethod
    def load(self) -> None:
        """Be the pack that layers compute, where a backend keeps something of it outside of the plan."""

    @abstractmethod
    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int | None
    ) -> torch.Tensor:
        """Attention of one layer.

        Args:
            query: [1, H, T, D], rotated.
            key: [1, Hk, T, D], rotated.
            value: [1, Hk, T, D].
            scaling: of the scores.
            window: of the layer, itself included; None for full attention.

        Returns:
            [1, T, H, D].
        """


@dataclass(frozen=True, slots=True)
class AttentionNeeds:
    """What a backend has to know of a model.

    groups: query heads of one key head. dtype: of the forward pass. windows: those that layers were seen to attend
    within, None for full attention; grows when a layer asks for another one.
    """

    groups: int
    device: torch.device
    dtype: torch.dtype
    windows: set[int | None] = field(default_factory=set)

    def see(self, window: int | None) -> None:
        """Know of a window.

        Raises:
            BadInput: it is first asked for inside compiled code.
        """
        if torch.compiler.is_compiling():
            raise BadInput(f"a compiled layer attends within a window of {window}, which no layer had before")
        self.windows.add(window)


class AttentionBackend(ABC):
    """Attention of a model on one kind of device."""

    def __init__(self, needs: AttentionNeeds) -> None:
        self.needs = needs

    @abstractmethod
    def length(self, tokens: int) -> int:
        """How many tokens the model is fed for a pack of `tokens`; those behind the pack's own are padding."""

    @abstractmethod
    def plan(self, pack: Pack) -> AttentionPlan:
        """The plan of a pack, its masks on the device."""


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    attention_plan: AttentionPlan | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer along the paths of a pack, called by transformers.

    Args:
        module: the layer, unused.
        query, key, value: see `AttentionPlan.attend`.
        attention_mask: None; transformers builds none for this function.
        scaling: of the scores.
        attention_plan: the pack's, handed to the model's forward call.
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
    if attention_plan is None:
        raise BadInput("its layers do not hand the plan of a pack on to their attention")
    return attention_plan.attend(query, key, value, scaling, sliding_window), None


ALL_ATTENTION_FUNCTIONS.register(PREFIX, prefix_attention)
