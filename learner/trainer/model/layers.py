"""How a model's decoder layers are run: compiled, and computed again for the backward pass.

Compiled, each layer is a graph of its own; all layers of one kind share it. Packs have one static length on CUDA, so a
run compiles once for each kind of layer, and once more where no gradient is computed.

Computed again, a layer keeps nothing but its input for the backward pass (Chen et al., 2016, "Training Deep Nets with
Sublinear Memory Cost", one checkpoint a layer). What is computed again is what a compiled layer computes, so both go
together, and gradients are equal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lamer.common.errors import BadInput
from lamer.common.settings import TrainerSettings
from lamer.learner.trainer.model.attention.base import AttentionPlan

Forward = Callable[..., Any]


def choose_compile(settings: TrainerSettings, device: torch.device) -> bool:
    """Whether layers are compiled: "auto" does on CUDA."""
    return settings.compile == "auto" and device.type == "cuda"


def choose_recompute(settings: TrainerSettings, device: torch.device) -> bool:
    """Whether layers are computed again for the backward pass: "auto" does on CUDA."""
    return settings.recompute == "layers" or (settings.recompute == "auto" and device.type == "cuda")


def decoder_layers(module: PreTrainedModel) -> tuple[torch.nn.Module, ...]:
    """The layers of a model's decoder, in order.

    Raises:
        BadInput: they stand in no list of its decoder.
    """
    decoder = cast(torch.nn.Module, module.base_model)
    count = module.config.num_hidden_layers
    for child in decoder.children():
        if isinstance(child, torch.nn.ModuleList) and len(child) == count:
            return tuple(child)
    raise BadInput(
        f"{type(module).__name__} can't be compiled or recomputed, since its {count} layers stand in no list: set "
        "trainer.compile=none and trainer.recompute=none"
    )


def arrange_layers(
    module: PreTrainedModel, *, is_compiled: bool, is_recomputed: bool, backend: str = "inductor"
) -> None:
    """Have a model's layers run compiled, or computed again for the backward pass, or both; once for a model.

    Args:
        module: the model, after its first pack.
        is_compiled: `torch.compile` of each layer, for static shapes.
        is_recomputed: nothing of a layer is kept but its input.
        backend: of the compiler.

    Raises:
        BadInput: its layers are not found.
    """
    if not is_compiled and not is_recomputed:
        return
    for layer in decoder_layers(module):
        forward: Forward = layer.forward
        if is_compiled:
            forward = torch.compile(forward, dynamic=False, backend=backend)
        layer.forward = _recomputed(forward) if is_recomputed else forward


def _recomputed(forward: Forward) -> Forward:
    """`forward` of a layer, computed again where a gradient asks for it, within the pack that it was computed in."""

    @functools.wraps(forward)
    def run(hidden: torch.Tensor, *others: object, **arguments: object) -> object:
        if not torch.is_grad_enabled():
            return forward(hidden, *others, **arguments)
        plan = arguments.get("attention_plan")

        def compute(states: torch.Tensor) -> object:
            if isinstance(plan, AttentionPlan):
                plan.load()
            return forward(states, *others, **arguments)

        return checkpoint(compute, hidden, use_reentrant=False, preserve_rng_state=False)

    return run
