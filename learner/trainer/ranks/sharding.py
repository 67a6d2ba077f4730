"""A model's parameters spread over ranks: FSDP2 (Zhao et al., 2023, "PyTorch FSDP", in torch's `fully_shard`).

Each decoder layer is gathered when it is computed, and let go after it; what belongs to no layer (embeddings, the last
norm, the output head) is gathered around the whole computation. Gradients are summed over ranks, not averaged: each
pack's share of the objective is already divided by the tokens of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

OutputT = TypeVar("OutputT")


class Whole(torch.nn.Module):
    """A model as one unit: called with a function, it returns what that computes with the model.

    What the function returns has to be a tensor or a tuple of tensors, since gradients are followed from there.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], OutputT]) -> OutputT:
        """What `compute` returns."""
        return compute()


def shard(whole: torch.nn.Module, layers: Sequence[torch.nn.Module], mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Spread a model over the ranks of `mesh`, layer by layer, so that no device ever holds all of it.

    Args:
        whole: the model, called as one; what lies on the CPU moves to the mesh's devices.
        layers: of its decoder.
        mesh: of one dimension.
        dtype: in which layers compute; gradients are summed in float32.
    """
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=_summed_in(whole), cast_forward_inputs=False)
    for module in (*layers, whole):
        fully_shard(module, mesh=mesh, mp_policy=precision)
        sharded = cast(FSDPModule, module)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def let_go(whole: torch.nn.Module) -> None:
    """After a computation without gradients: hold no gathered parameters, which would miss what is changed next."""
    if isinstance(whole, FSDPModule):
        whole.reshard()


def _summed_in(whole: torch.nn.Module) -> torch.dtype:
    """float32, or what parameters have that are more precise."""
    dtypes = {parameter.dtype for parameter in whole.parameters()}
    return torch.float64 if torch.float64 in dtypes else torch.float32
