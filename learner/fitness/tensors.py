"""The tensors that a folder stores beside those that its model class has: they are the same, or the folder is refused.

transformers fills what a folder lacks with random values and drops what it does not know, and says so only in a log.
Here a tied tensor (an output head that is the embedding) stands in the folder under one of its names, or under several
with equal bytes; what transformers itself ignores for the class may be there or not. Only headers are read.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lamer.common.errors import BadInput, Missing
from lamer.common.tensors import StoredTensor, TensorFolder

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BLOCK_BYTES = 1 << 24
_MOVED_BUFFERS = ("rotary_emb.inv_freq", "position_ids")
"""Buffers that older folders store and that transformers drops where the model has one of that name."""


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The tensors of a model: shape by name, every name of each tied one included. groups: the names of each tensor.
    buffers: names of those that are no parameters.
    """

    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[tuple[str, ...], ...]
    buffers: Collection[str]


def check_tensors(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a folder that does not hold exactly the tensors of `model`, under the names that its class gives them or
    under those that transformers converts for the class, as one for each expert.

    Args:
        folder: the model folder.
        model: made from its configuration, on torch's meta device.

    Raises:
        Missing: a weight file is not there. BadInput: a tensor is missing, foreign, of another shape or quantised.
    """
    expected, converted = model_tensors(model), _converted(model)
    with TensorFolder(folder, weight_names(folder)) as files:
        stored = {tensor.name: tensor for file in files.files.values() for tensor in file.tensors}
        if any(name in converted.shapes and name not in expected.shapes for name in stored):
            expected = converted
        if missing := missing_tensors(stored, expected, model):
            raise BadInput(f"{folder} lacks {_some(missing)}")
        ignored = ignored_tensors(stored, model)
        if foreign := [name for name in stored if name not in expected.shapes and name not in ignored]:
            raise BadInput(f"{folder} holds {_some(foreign)}, which {type(model).__name__} does not have")
        _check_kinds(folder, stored, expected)
        _check_ties(folder, files, expected)


def weight_names(folder: Path) -> tuple[str, ...]:
    """The files that are loaded: the single one, or those that the index names.

    Raises:
        Missing: a file is not there. BadInput: the index can't be read, or is another model's than the single file.
    """
    index, single = folder / _INDEX, folder / _SINGLE
    if not index.is_file():
        if not single.is_file():
            raise Missing(f"{folder} holds no {_SINGLE}: only safetensors files are loaded")
        return (_SINGLE,)
    try:
        names = tuple(
            sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{index} is not an index of weight files: {error!r}") from error
    if single.is_file() and names != (_SINGLE,):
        raise BadInput(f"{folder} holds {_SINGLE} and an index of other files: remove the one that is not the model")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise Missing(f"{folder} lacks {_some(absent)}, which its index names")
    return names


def model_tensors(model: PreTrainedModel) -> ModelTensors:
    """Under the names that the class gives them."""
    groups: dict[int, list[str]] = defaultdict(list)
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        groups[id(tensor)].append(name)
    return ModelTensors(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        tuple(map(tuple, groups.values())),
        {name for name, _ in model.named_buffers() if name in state},
    )


def _converted(model: PreTrainedModel) -> ModelTensors:
    """Under the names that transformers writes them under."""
    own = model_tensors(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, model.state_dict()).items()}
    kept = [names for names in own.groups if names[0] in shapes]
    known = {name for names in kept for name in names}
    return ModelTensors(shapes, (*kept, *((name,) for name in shapes if name not in known)), own.buffers)


def missing_tensors(stored: Collection[str], expected: ModelTensors, model: PreTrainedModel) -> list[str]:
    """The first names of those expected tensors that are stored under none, and that a folder may not leave out."""
    ignored = model._keys_to_ignore_on_load_missing or ()
    absent = (names for names in expected.groups if not any(name in stored for name in names))
    return [names[0] for names in absent if not _matches(names[0], ignored)]


def ignored_tensors(stored: Collection[str], model: PreTrainedModel) -> list[str]:
    """Those of the stored names that transformers drops when it loads a folder for the class of `model`."""
    own = model.state_dict(keep_vars=True)
    buffers = [name for name, _ in model.named_buffers()]
    moved = [end for end in _MOVED_BUFFERS if any(name.endswith(end) for name in buffers)]
    ignored = [*(model._keys_to_ignore_on_load_unexpected or ()), *(rf"(^|\.){re.escape(end)}$" for end in moved)]
    return [name for name in stored if name not in own and _matches(name, ignored)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _check_kinds(folder: Path, stored: Mapping[str, StoredTensor], expected: ModelTensors) -> None:
    for name, tensor in stored.items():
        if name not in expected.shapes:
            continue
        if tensor.shape != expected.shapes[name]:
            raise BadInput(
                f"{name} is {[*tensor.shape]} in {folder}, its config.json makes it {[*expected.shapes[name]]}"
            )
        if name not in expected.buffers and tensor.dtype not in _FLOATS:
            raise BadInput(f"{name} is {tensor.dtype} in {folder}: quantised weights can't be trained or served here")


def _check_ties(folder: Path, files: TensorFolder, expected: ModelTensors) -> None:
    for names in expected.groups:
        first, *others = [name for name in names if files.find(name) is not None] or [""]
        for other in others:
            if not _are_equal(files, first, other):
                raise BadInput(
                    f"{folder} holds {first} and {other} with different values, its config.json ties them: one of "
                    "both is wrong (tie_word_embeddings)"
                )


def _are_equal(files: TensorFolder, one: str, other: str) -> bool:
    first, second = files.find(one), files.find(other)
    assert first is not None
    assert second is not None
    if (first.dtype, first.size) != (second.dtype, second.size):
        return False
    starts = range(0, first.size, _BLOCK_BYTES)
    return all(files.read(one, at, _BLOCK_BYTES) == files.read(other, at, _BLOCK_BYTES) for at in starts)


def _some(names: list[str]) -> str:
    """`names`, three of them at most."""
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
