"""How an allocation that failed is told from other errors."""

from __future__ import annotations

import torch

_SAID = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")
"""What a RuntimeError of torch says where an allocation fails; CUDA's has a class of its own, its libraries say
CUBLAS_STATUS_ALLOC_FAILED and the like."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a card or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _SAID)
