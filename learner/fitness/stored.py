"""A folder in, the same folder out: a model's tensors under the names, in shapes and dtypes of the folder it is from.

transformers gives some tensors other names and shapes when it loads a folder, such as one tensor for all experts of a
layer, and knows how to undo that (`revert_weight_conversion`). Inference servers load what the folder stores. Here a
model goes back to it, a layer at a time, so that no more than a layer is held twice.

    StoredForm     the tensors that a folder stores, and how a model of its class fills them
    read_tensors   the other way: a folder's tensors under the names of the class, one at a time
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lamer.common.errors import BadInput
from lamer.common.tensors import TensorFolder
from lamer.learner.fitness.loading import load_model
from lamer.learner.fitness.tensors import ignored_tensors, missing_tensors, model_tensors, weight_names

DTYPES = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes of safetensors files that a folder of ours holds, in torch's words."""
_LAYER = re.compile(r"^.*?\.\d+\.")


@dataclass(frozen=True, slots=True)
class FormTensor:
    """A tensor as a folder stores it. is_trained: made of parameters; otherwise of buffers, or none of the model's."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_trained: bool


class StoredForm:
    """What a folder stores. tensors: by name."""

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        """The form of `folder`, which `model` was loaded from (`learner.fitness.loading.load_model`).

        Raises:
            BadInput: a model of this class can't be brought into that form; the message names a tensor.
        """
        self._folder = folder
        with TensorFolder(folder, weight_names(folder)) as files:
            stored = {tensor.name: tensor for file in files.files.values() for tensor in file.tensors}
        carried = set(ignored_tensors(stored, model))
        self._carried = tuple(sorted(carried))
        found = dict(self._parts(model, on_meta=True))
        strange = [name for name, tensor in stored.items() if tensor.dtype not in DTYPES] or [
            name
            for name, tensor in stored.items()
            if name not in carried and (name not in found or tuple(found[name][0].shape) != tensor.shape)
        ]
        if strange:
            raise BadInput(
                f"{folder} can't be trained: {type(model).__name__} does not give back {strange[0]} of shape "
                f"{[*stored[strange[0]].shape]}, which it was loaded from"
            )
        self.tensors: Mapping[str, FormTensor] = {
            name: FormTensor(name, DTYPES[tensor.dtype], tensor.shape, name not in carried and found[name][1])
            for name, tensor in stored.items()
        }

    def fill(self, model: PreTrainedModel) -> Iterator[tuple[FormTensor, torch.Tensor]]:
        """Every tensor of the form once, with its values in `model`, in the model's dtype and on its device. What the
        model's class ignores is as it lies in the folder.
        """
        for name, (tensor, _) in self._parts(model, on_meta=False):
            if name in self.tensors:
                yield self.tensors[name], tensor
        yield from ((self.tensors[name], tensor) for name, tensor in _read(self._folder, self._carried))

    def take_part(self, model: PreTrainedModel) -> None:
        """Gather what another rank fills the form with, and keep nothing of it."""
        for _, own in self._layers(model):
            _gather(own)

    def _parts(self, model: PreTrainedModel, *, on_meta: bool) -> Iterator[tuple[str, tuple[torch.Tensor, bool]]]:
        """Name -> (tensor, whether it is made of parameters), under all names that a folder of the class may use."""
        for is_trained, layer in self._layers(model):
            own = {name: _described(tensor) for name, tensor in layer.items()} if on_meta else _gather(layer)
            given = revert_weight_conversion(model, dict(own))
            for name, tensor in (own | given).items():
                yield name, (tensor, is_trained)

    def _layers(self, model: PreTrainedModel) -> Iterator[tuple[bool, dict[str, torch.Tensor]]]:
        """The model's tensors, layer by layer: (whether they are parameters, by name); what belongs to none first."""
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        layers: dict[tuple[str, bool], dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in model.state_dict(keep_vars=True).items():
            layer = _LAYER.match(name)
            layers[layer[0] if layer else "", name in parameters][name] = tensor
        for (_, is_trained), own in layers.items():
            yield is_trained, own


def _described(tensor: torch.Tensor) -> torch.Tensor:
    """Its shape and dtype, without values."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _gather(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All of tensors that ranks may hold parts of, in which every rank takes part; a tied one once."""
    found: dict[int, torch.Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in found:
            whole = getattr(tensor.detach(), "full_tensor", tensor.detach)
            found[id(tensor)] = whole()
    return {name: found[id(tensor)] for name, tensor in tensors.items()}


def read_tensors(folder: Path, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a folder of the same form as that which `model` is from, on the CPU, under the names of its class;
    a tied one under one of its names. Where transformers converts them, a whole second model is held meanwhile.

    Raises:
        BadInput, Missing: it can't be read, or is of another model.
    """
    own = model_tensors(model)
    with TensorFolder(folder, weight_names(folder)) as files:
        stored = {tensor.name: tensor for file in files.files.values() for tensor in file.tensors}
    if any(name not in own.shapes for name in stored if name not in ignored_tensors(stored, model)):
        yield from load_model(folder, model.dtype, "eager").state_dict().items()
        return
    wrong = missing_tensors(stored, own, model)
    wrong += [name for name, shape in own.shapes.items() if name in stored and stored[name].shape != shape]
    if wrong:
        raise BadInput(f"{folder} has no {wrong[0]} of shape {[*own.shapes[wrong[0]]]}")
    names = (next((name for name in group if name in stored), "") for group in own.groups)
    yield from _read(folder, [name for name in names if name])


def _read(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    wanted = set(names)
    for file in weight_names(folder) if wanted else ():
        with safe_open(folder / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                if name in wanted:
                    yield name, opened.get_tensor(name)
