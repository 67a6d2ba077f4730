"""What an attention backend is: it plans a pack once, and computes the attention of every layer from that plan.

    AttentionPlan      a pack's masks on the device: one for each window, shared by all layers
    AttentionBackend   makes plans; transformers calls its function by its name

A backend's module registers its attention function with transformers. Layers hand the plan on to it as the argument
`attention_plan` of the model's forward call.

Which windows the layers of a model have is not read from its configuration, where every architecture says it in its own
way: a plan that is asked for a window makes its mask then, and the backend makes it for all packs after that. Inside
compiled code nothing is made; a model computes a pack before its layers are compiled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from lamer.common.errors import BadInput
from lamer.learner.trainer.model.packing import Pack


class AttentionPlan(ABC):
    """How the tokens of one pack attend.

    A pack is planned, computed forwards and backwards, before the next one is planned.
    """

    @abstractmethod
    def load(self) -> None:
        """Be the pack that layers compute, where a backend keeps something of it outside of the plan."""


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

    name: ClassVar[str]
    """What transformers knows its attention function by."""

    def __init__(self, needs: AttentionNeeds) -> None:
        self.needs = needs

    @abstractmethod
    def length(self, tokens: int) -> int:
        """How many tokens the model is fed for a pack of `tokens`; those behind the pack's own are padding."""

    @abstractmethod
    def plan(self, pack: Pack) -> AttentionPlan:
        """The plan of a pack, its masks on the device."""
