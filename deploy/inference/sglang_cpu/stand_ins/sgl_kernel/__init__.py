"""Stands in for SGLang's compiled kernels where there is no GPU: it can be imported, and no kernel can be called.

SGLang imports names from `sgl_kernel` while it starts; on the CPU with the `torch_native` attention backend it calls
none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

__version__ = "0.4.10+stub"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """A function of any name; calling it fails."""
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} needs a GPU: this is the stand-in for machines without one")

    return kernel
