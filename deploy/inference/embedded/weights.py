"""Loading new weights into the parameters of a running model, all or nothing.

Everything that can fail (reading, names, shapes, values that are not finite) happens before a parameter changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lamer.common.errors import MALFORMED, BadInput


def shard_paths(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder, by its index where there is one. Raises BadInput when there are none."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if not single.is_file():
            raise BadInput(f"no model.safetensors in {folder}")
        return (single,)
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, *MALFORMED, KeyError, AttributeError) as error:
        raise BadInput(f"{index} is not an index of shards: {error!r}") from error
    return tuple(folder / str(name) for name in sorted(names))


def _targets(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
    """Name -> tensor of the model's state, tied names included, and the first name of each distinct storage."""
    state = model.state_dict(keep_vars=False)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(tensor.data_ptr(), name)
    return state, first


def _read(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor of the folder's shards, checked against `state` and converted to its types."""
    loaded: dict[str, torch.Tensor] = {}
    for path in shard_paths(folder):
        try:
            with safe_open(str(path), framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118
                    target = state.get(name)
                    if target is None:
                        raise BadInput(f"{path.name} holds {name!r}, which the model does not have")
                    tensor = shard.get_tensor(name)
                    if tensor.shape != target.shape:
                        raise BadInput(f"{name} is {[*tensor.shape]} in {path.name}, the model has {[*target.shape]}")
                    if not bool(torch.isfinite(tensor).all()):
                        raise BadInput(f"{name} in {path.name} holds values that are not finite")
                    loaded[name] = tensor.to(target.dtype)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"can't read {path}: {error}") from error
    return loaded


def load_in_place(model: nn.Module, folder: Path) -> None:
    """Copies the folder's weights into the model's parameters.

    Raises BadInput, with the model unchanged, when a file can't be read, a name is unknown or missing, a shape differs
    or a value is not finite. A tied name (an output head that is the embedding) may be left out.
    """
    state, first = _targets(model)
    loaded = _read(folder, state)
    given = {state[name].data_ptr() for name in loaded}
    missing = sorted(name for pointer, name in first.items() if pointer not in given)
    if missing:
        raise BadInput(f"{folder} lacks {len(missing)} of the model's tensors, such as {missing[0]!r}")
    with torch.no_grad():
        for name, tensor in loaded.items():
            state[name].copy_(tensor)
