"""Tensors that every rank holds some rows of: written as files of each rank, read by any number of them.

The files are those of torch.distributed.checkpoint's HuggingFaceStorageWriter: safetensors, whose metadata says at
which row each tensor's part begins; a plain safetensors file is one whose parts begin at 0. Every rank writes and reads
for itself (`no_dist`), since the library's own planning sends pickles from rank to rank.

    Chunk          the rows of a tensor that this rank holds
    write_chunks   this rank's files of a folder
    StoredTensors  the tensors of a folder's files, whoever wrote them, read by rows
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

FILE_BYTES = 1 << 30
"""Of tensors in a file, more or less: the library holds a file's bytes twice while it writes it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """data: rows of a tensor of `shape`, from row `start` on. A tensor without dimensions is one row."""

    data: torch.Tensor
    start: int
    shape: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return tuple(self.data.shape) == self.shape


def is_sharded(value: torch.Tensor) -> bool:
    """Whether ranks hold rows of it."""
    return isinstance(value, DTensor)


def own_chunk(value: torch.Tensor) -> Chunk:
    """What this rank holds of a tensor, which shares its memory; all of one that is not sharded."""
    data = value.detach()
    if not isinstance(data, DTensor):
        return Chunk(data, 0, tuple(data.shape))
    rows = data.shape[0]
    most = -(-rows // data.device_mesh.size())  # as FSDP2 cuts them
    return Chunk(data._local_tensor, min(rows, data.device_mesh.get_local_rank() * most), tuple(data.shape))


def write_chunks(folder: Path, chunks: Mapping[str, Chunk], rank: int) -> tuple[str, ...]:
    """Write this rank's files of a folder, about `FILE_BYTES` each.

    Args:
        folder: of all ranks.
        chunks: by name. What all ranks hold whole is written by rank 0, what has no values by none.
        rank: this one.

    Returns:
        the files' names.

    Raises:
        OSError: they can't be written.
    """
    own = {name: chunk for name, chunk in chunks.items() if chunk.data.numel() and (rank == 0 or not chunk.is_whole)}
    if not own:
        return ()
    writer = _OwnFiles(folder, rank, _file_numbers(own))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # so it is meant
        try:
            save({}, storage_writer=writer, planner=_OwnPlan(own), no_dist=True)
        except CheckpointException as error:  # no Exception: what failed inside of it is
            failed = [each[0] for each in error.failures.values()]
            raise (failed[0] if failed else RuntimeError(str(error))) from error
    return tuple(sorted(path.name for path in folder.glob(f"shard-{rank + 1:05d}-*")))


class _Part(NamedTuple):
    """Rows `start` to `stop` of a tensor, in a file."""

    start: int
    stop: int
    file: Path


class _OpenFile(Protocol):
    """What is used of a safetensors file, whose package has no types."""

    def get_tensor(self, name: str) -> torch.Tensor:
        """All of a tensor."""

    def get_slice(self, name: str) -> torch.Tensor:
        """A tensor, to be cut by rows."""


class StoredTensors:
    """The tensors in a folder's safetensors files. A context manager: the files are open meanwhile."""

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            SafetensorError: a file can't be read.
        """
        found = HuggingFaceStorageReader(str(folder)).read_metadata()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._parts: dict[str, list[_Part]] = {}
        for index, stored in found.storage_data.items():
            described = found.state_dict_metadata[index.fqn]
            assert isinstance(described, TensorStorageMetadata)
            self.shapes[index.fqn] = tuple(described.size)
            self.dtypes[index.fqn] = described.properties.dtype
            start = index.offset[0] if index.offset else 0
            rows = stored.shape[0] if stored.shape else 1
            self._parts.setdefault(index.fqn, []).append(_Part(start, start + rows, Path(stored.relative_path)))
        self._open: dict[Path, _OpenFile] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._stack.close()

    def whole(self, name: str) -> torch.Tensor:
        """A tensor of one part, on the CPU."""
        (part,) = self._parts[name]
        return self._file(part.file).get_tensor(name).clone()

    def covers(self, name: str, start: int, stop: int) -> bool:
        """Whether all of these rows are there."""
        return sum(last - first for first, last, _ in self._overlaps(name, start, stop)) == stop - start

    def rows(self, name: str, start: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Those of the rows `start` to `stop` that are there, as (first row, rows), on the CPU; nothing for a tensor
        that is not.
        """
        for first, last, part in self._overlaps(name, start, stop):
            yield first, self._file(part.file).get_slice(name)[first - part.start : last - part.start]

    def copy_to(self, name: str, target: Chunk) -> None:
        """Fill what `target` shares its memory with."""
        with torch.no_grad():
            if not target.shape:
                target.data.copy_(self.whole(name))
                return
            for first, rows in self.rows(name, target.start, target.start + len(target.data)):
                target.data[first - target.start :][: len(rows)].copy_(rows)

    def _overlaps(self, name: str, start: int, stop: int) -> list[tuple[int, int, _Part]]:
        parts = ((max(start, part.start), min(stop, part.stop), part) for part in self._parts.get(name, ()))
        return sorted((first, last, part) for first, last, part in parts if first < last)

    def _file(self, path: Path) -> _OpenFile:
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._open[path]


class _OwnFiles(HuggingFaceStorageWriter):
    """Writes files that are named after a rank."""

    def __init__(self, folder: Path, rank: int, files: Mapping[str, int]) -> None:
        super().__init__(str(folder), fqn_to_index_mapping=dict(files), save_distributed=True)
        self._number = rank + 1

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The plan of this rank, the only one that is known here."""
        return [
            dataclasses.replace(plan, storage_data={**plan.storage_data, "shard_index": self._number})
            for plan in super().prepare_global_plan(plans)
        ]


class _OwnPlan(SavePlanner):
    """Writes a rank's chunks, whatever others write."""

    def __init__(self, chunks: Mapping[str, Chunk]) -> None:
        self._chunks = chunks

    def set_up_planner(
        self, state_dict: object, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """What is written is known."""

    def create_local_plan(self) -> SavePlan:
        """All chunks."""
        return SavePlan([_write_item(name, chunk) for name, chunk in self._chunks.items()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """As it is; the format keeps its metadata in the files."""
        return all_plans, Metadata({})

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """As it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """A chunk's data."""
        return self._chunks[write_item.index.fqn].data.contiguous()


def _write_item(name: str, chunk: Chunk) -> WriteItem:
    sizes = chunk.data.shape
    offsets = torch.Size([chunk.start, *(0 for _ in sizes[1:])]) if sizes else torch.Size()
    described = TensorWriteData(
        ChunkStorageMetadata(offsets, sizes),
        TensorProperties.create_from_tensor(chunk.data),
        torch.Size(chunk.shape),
    )
    return WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=described)


def _file_numbers(chunks: Mapping[str, Chunk]) -> dict[str, int]:
    """Tensor -> number of its file, 1, 2, ..."""
    numbers, number, filled = {}, 1, 0
    for name, chunk in chunks.items():
        size = chunk.data.numel() * chunk.data.element_size()
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name] = number
        filled += size
    return numbers
