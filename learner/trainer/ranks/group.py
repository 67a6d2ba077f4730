"""The ranks that train one model: who they are, and what they tell each other.

    rank 0       talks to the gateway, and says what all of them do next (`learner.trainer.following`)
    the others   do the same with their own packs and their own shards

Every rank runs the same update on the same trials; what differs is which packs it computes. What is summed over ranks
is summed in their order, so that the same number of ranks gives the same bits.

Two process groups: one for tensors (nccl on CUDA, gloo elsewhere), which gives up after `Placement.seconds`; and one of
gloo for what rank 0 says, in which a rank may wait for days. What they carry is bytes and numbers, never pickles:
whoever reaches a rank's port can make it fail, not run code. These ports belong inside the cluster (docs/security.md).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lamer.common.errors import RunFailed
from lamer.common.text import describe_error

Tensors = Mapping[str, torch.Tensor]

_AGREEING = datetime.timedelta(seconds=120)
_FOR_EVER = datetime.timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a rank stands. address: where the ranks meet, host:port. seconds: that an exchange of tensors may take."""

    rank: int = 0
    size: int = 1
    address: str = ""
    seconds: float = 1800.0


ONLY = Placement()
"""Of a model that one process trains."""


class RankLost(RunFailed):
    """What ranks do together failed on one of them, or one is gone: none can go on."""


class Ranks:
    """This process among those that train one model. Alone, it exchanges nothing."""

    rank = 0
    size = 1

    def mesh(self) -> DeviceMesh | None:
        """What models are sharded over; None for a rank that is alone."""
        return None

    def heard(self, said: bytes | None) -> bytes:
        """What rank 0 says; the others hand in None, and wait for as long as it takes."""
        assert said is not None
        return said

    def all_of(self, values: Tensors) -> tuple[Tensors, ...]:
        """The tensors of all ranks, on the CPU, in the order of ranks."""
        return (values,)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        return value

    def fail_together(self) -> None:
        """Wait for the others to give the same step up, which every rank has to find by itself.

        Raises:
            RankLost: they do not: this rank alone has failed.
        """

    def close(self) -> None:
        """Leave the others."""


ALONE = Ranks()
"""The one rank of a model that one process trains."""


class RankGroup(Ranks):
    """A rank that is not alone."""

    def __init__(self, placement: Placement, device: torch.device) -> None:
        """Meet the other ranks.

        Args:
            placement: of this rank.
            device: that models are on.

        Raises:
            RankLost: they do not come within the placement's seconds.
        """
        self.rank, self.size = placement.rank, placement.size
        backend = "nccl" if device.type == "cuda" else "gloo"
        bound = datetime.timedelta(seconds=placement.seconds)
        try:
            dist.init_process_group(
                backend, f"tcp://{placement.address}", bound, world_size=placement.size, rank=placement.rank
            )
            self._mesh = init_device_mesh(device.type, (placement.size,))
            self._talk = dist.new_group(backend="gloo", timeout=_FOR_EVER)
            self._failing = dist.new_group(backend="gloo", timeout=_AGREEING)
        except (RuntimeError, ValueError) as error:
            raise RankLost(
                f"rank {placement.rank} of {placement.size} did not meet the others at {placement.address} within "
                f"{placement.seconds:g} s: {describe_error(error)}"
            ) from error

    def mesh(self) -> DeviceMesh | None:
        """All ranks in one dimension."""
        return self._mesh

    def heard(self, said: bytes | None) -> bytes:
        """See `Ranks`."""
        size = torch.tensor([0 if said is None else len(said)])
        dist.broadcast(size, src=0, group=self._talk)
        data = torch.empty(int(size), dtype=torch.uint8) if said is None else _as_tensor(said)
        dist.broadcast(data, src=0, group=self._talk)
        return data.numpy().tobytes()

    def all_of(self, values: Tensors) -> tuple[Tensors, ...]:
        """See `Ranks`."""
        own = _as_tensor(save({name: value.detach().cpu().contiguous() for name, value in values.items()}))
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own)]), group=self._talk)
        most = max(int(size) for size in sizes)
        padded = torch.nn.functional.pad(own, (0, most - len(own)))
        found = [torch.empty(most, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, padded, group=self._talk)
        pairs = zip(found, sizes, strict=True)
        return tuple(load(data[: int(size)].numpy().tobytes()) for data, size in pairs)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """See `Ranks`."""
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts).sum(dim=0)

    def fail_together(self) -> None:
        """See `Ranks`."""
        try:
            dist.barrier(group=self._failing)
        except RuntimeError as error:
            raise RankLost(f"rank {self.rank} of {self.size} failed where the others did not") from error

    def close(self) -> None:
        """Leave the others."""
        if dist.is_initialized():
            dist.destroy_process_group()


def meet(placement: Placement, device: torch.device) -> Ranks:
    """The ranks of a placement, once all of them are there. device: that models are on.

    Raises:
        RankLost: the others did not come.
    """
    return RankGroup(placement, device) if placement.size > 1 else ALONE


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def full(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor, whether or not it is sharded; every rank has to ask for it."""
    whole = getattr(value, "full_tensor", None)
    found: torch.Tensor = value if whole is None else whole()
    return found


def shards(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """This rank's part of each tensor, which shares its memory."""
    return [getattr(value, "_local_tensor", value) for value in values]
