"""A model's weights on the host, as they were at one moment, and the complete model folder that is written of them.

    Exporter    takes snapshots of a model, in the form of the folder that it was loaded from
    Snapshot    the bytes of a safetensors file and the small files beside it; written while training goes on

A snapshot is one block of memory, laid out as the file is. On CUDA it is pinned, so that copying is as fast as the bus,
and it is used again for the next snapshot: one at a time. Of several ranks all take part and gather a layer at a time,
and rank 0 keeps it on the host. Writing hashes each block while the next one is written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from transformers import PreTrainedModel

from lamer.common.folders import whole_folder
from lamer.common.weights import NamedFile, WeightFile, companion_files, weight_files
from lamer.learner.fitness.stored import DTYPES, FormTensor, StoredForm

if TYPE_CHECKING:
    from typing_extensions import Buffer

WEIGHTS = "model.safetensors"
_BLOCK_BYTES = 1 << 24
_ALIGNED = 8
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """header: the first bytes of the weight file (length and JSON); data: the bytes of its tensors, uint8 on the host.

    companions: configuration, tokenizer and template, with their contents. On ranks other than 0 all are empty.
    """

    header: bytes
    data: torch.Tensor
    companions: tuple[NamedFile, ...]

    def write(self, target: Path) -> tuple[WeightFile, ...]:
        """Write a complete model folder, which appears whole or not at all, and replaces one of the same name.

        Returns:
            its weight files.

        Raises:
            OSError: it can't be written; what was there before is there still.
        """
        assert self.header, "only rank 0 has what a snapshot is written of"
        with whole_folder(target, replaces=True) as folder:
            for companion in self.companions:
                (folder / companion.name).write_bytes(companion.data)
            digest = hashlib.sha256()
            with (folder / WEIGHTS).open("wb", buffering=0) as file, ThreadPoolExecutor(1) as hashing:
                for block in self._blocks():
                    hashed = hashing.submit(digest.update, block)
                    _write_all(file.write, block)
                    hashed.result()
        return (self._file(digest.hexdigest()),)

    def written(self, target: Path) -> tuple[WeightFile, ...] | None:
        """The weight files of `target` where it is, byte for byte, the folder that `write` would make of this."""
        try:
            is_same = all((target / each.name).read_bytes() == each.data for each in self.companions)
            names = {path.name for path in companion_files(target)}
            if not is_same or names != {each.name for each in self.companions}:
                return None
            files = weight_files(target)
        except OSError:
            return None
        return files if files == self._files() else None

    def _files(self) -> tuple[WeightFile, ...]:
        """The weight files that `write` gives, without writing them."""
        digest = hashlib.sha256()
        for block in self._blocks():
            digest.update(block)
        return (self._file(digest.hexdigest()),)

    def _file(self, digest: str) -> WeightFile:
        return WeightFile(WEIGHTS, len(self.header) + len(self.data), digest)

    def _blocks(self) -> Iterator[memoryview]:
        yield memoryview(self.header)
        data = memoryview(cast("Buffer", self.data.numpy()))
        yield from (data[start : start + _BLOCK_BYTES] for start in range(0, len(data), _BLOCK_BYTES))


class Exporter:
    """Takes snapshots of one model."""

    def __init__(self, folder: Path, module: PreTrainedModel, *, keeps: bool = True) -> None:
        """folder: that `module` was loaded from; its small files are read again with each snapshot. keeps: whether
        snapshots are kept here; if not, this only takes part in gathering what another rank keeps.

        Raises:
            BadInput: the module can't be brought into the form of the folder.
        """
        self._folder = folder
        self._module = module
        self._form = StoredForm(folder, module)
        self._keeps = keeps
        self._pinned: torch.Tensor | None = None

    def take(self, dtype: torch.dtype | None) -> Snapshot:
        """The weights of this moment. On CUDA it takes the place of the snapshot before.

        Args:
            dtype: of trained tensors, as the configuration then says too; None: each tensor's in the folder.
        """
        if not self._keeps:
            self._form.take_part(self._module)
            return Snapshot(b"", torch.empty(0, dtype=torch.uint8), ())
        placed = _layout(self._form.tensors, dtype)
        size = max((place.end for place in placed.values()), default=0)
        data = self._room(size)
        with torch.no_grad():
            for tensor, value in self._form.fill(self._module):
                place = placed[tensor.name]
                view = data[place.start : place.end].view(place.dtype).view(tensor.shape)
                view.copy_(value, non_blocking=data.is_pinned())
        if data.is_pinned():
            torch.cuda.synchronize(self._module.device)
        return Snapshot(_header(placed), data, tuple(_companions(self._folder, dtype)))

    def _room(self, size: int) -> torch.Tensor:
        """Memory of `size` bytes."""
        if self._module.device.type != "cuda":
            return torch.empty(size, dtype=torch.uint8)
        if self._pinned is None or len(self._pinned) != size:
            self._pinned = None
            self._pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._pinned


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the data of a file."""

    dtype: torch.dtype
    shape: Sequence[int]
    start: int
    end: int


def _layout(tensors: Mapping[str, FormTensor], dtype: torch.dtype | None) -> dict[str, _Place]:
    """Places by name, wide dtypes first, so that every tensor begins at a multiple of its element's size."""
    dtypes = {name: dtype if dtype is not None and each.is_trained else each.dtype for name, each in tensors.items()}
    names = sorted(tensors, key=lambda name: (-dtypes[name].itemsize, name))
    sizes = [torch.Size(tensors[name].shape).numel() * dtypes[name].itemsize for name in names]
    ends = list(itertools.accumulate(sizes))
    return {
        name: _Place(dtypes[name], tensors[name].shape, end - size, end)
        for name, size, end in zip(names, sizes, ends, strict=True)
    }


def _header(placed: Mapping[str, _Place]) -> bytes:
    entries = {
        name: {"dtype": _NAMES[place.dtype], "shape": [*place.shape], "data_offsets": [place.start, place.end]}
        for name, place in placed.items()
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def _companions(source: Path, dtype: torch.dtype | None) -> Iterator[NamedFile]:
    """Configuration, tokenizer and template files; the configuration names `dtype`, if one is given."""
    for path in companion_files(source):
        data = path.read_bytes()
        if path.name == "config.json" and dtype is not None:
            config = json.loads(data)
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
            data = (json.dumps(config, indent=2) + "\n").encode()
        yield NamedFile(path.name, data)


def _write_all(write: object, block: memoryview) -> None:
    """Write a block to an unbuffered file, which may take a part of it at a time."""
    assert callable(write)
    while len(block):
        block = block[write(block) :]
