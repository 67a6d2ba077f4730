"""Arrays of the host as tensors on the model's device."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A tensor on `device`. On CUDA it goes through pinned memory, so that the next pack is laid out while the one
    before is still computed; elsewhere it may share memory with the array.
    """
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
