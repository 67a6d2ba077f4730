"""Loading new weights into the parameters of a running model, all or nothing.

Everything that can fail (reading, names, shapes, values that are not finite) happens before a parameter changes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from lamer.common.errors import BadInput, Missing
from lamer.learner.fitness.stored import read_tensors


def _targets(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
    """Name -> tensor of the model's state, tied names included, and the first name of each distinct storage."""
    state = model.state_dict(keep_vars=False)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(tensor.data_ptr(), name)
    return state, first


def _read(model: PreTrainedModel, folder: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor of the folder under the names of the model's class, checked against `state` and in its types."""
    loaded: dict[str, torch.Tensor] = {}
    try:
        for name, tensor in read_tensors(folder, model):
            if not bool(torch.isfinite(tensor).all()):
                raise BadInput(f"{name} in {folder} holds values that are not finite")
            loaded[name] = tensor.to(state[name].dtype)
    except (OSError, SafetensorError, Missing) as error:
        raise BadInput(f"can't read {folder}: {error}") from error
    return loaded


def load_in_place(model: PreTrainedModel, folder: Path) -> None:
    """Copies the folder's weights into the model's parameters.

    Raises BadInput, with the model unchanged, when a file can't be read, a name is unknown or missing, a shape differs
    or a value is not finite. A tied name (an output head that is the embedding) may be left out.
    """
    state, first = _targets(model)
    loaded = _read(model, folder, state)
    given = {state[name].data_ptr() for name in loaded}
    missing = sorted(name for pointer, name in first.items() if pointer not in given)
    if missing:
        raise BadInput(f"{folder} lacks {len(missing)} of the model's tensors, such as {missing[0]!r}")
    with torch.no_grad():
        for name, tensor in loaded.items():
            state[name].copy_(tensor)
