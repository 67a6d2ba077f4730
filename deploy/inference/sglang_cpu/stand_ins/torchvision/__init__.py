"""Stands in for torchvision: SGLang and transformers import it for image models, which lamer does not serve.

The submodules in `_SUBMODULES` hold a class of any name; making an instance of one fails. Every submodule has the
`InterpolationMode` that modules read while they are imported.
"""

from __future__ import annotations

import enum
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

__version__ = "0.28.0+stub"
_SUBMODULES = ("transforms", "transforms.v2", "transforms.functional", "transforms.v2.functional", "io", "ops")


class InterpolationMode(enum.Enum):
    """How images are resized, with torchvision's names."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _StandIn(ModuleType):
    """A submodule with a class of any name."""

    InterpolationMode = InterpolationMode

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": _refuse})


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise NotImplementedError(f"torchvision's {type(self).__name__} is not installed: only text models are served here")


def _add(path: str) -> None:
    name = f"{__name__}.{path}"
    module = _StandIn(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


for _path in _SUBMODULES:
    _add(_path)
