"""Where the tensors of a safetensors file lie, read from its header alone: nothing here knows what a dtype means.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes without gaps.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamer.common.errors import MALFORMED, BadInput
from lamer.common.records import Int64, Record

MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_ELEMENT_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}


class StoredTensor(Record, frozen=True):
    """A tensor as it lies in a file: `size` bytes from byte `start` of the data that follows the header."""

    name: str
    dtype: str
    shape: tuple[Int64, ...]
    start: Int64
    size: Int64

    @property
    def element_bytes(self) -> int:
        """Bytes of one element; 1 for dtypes smaller than that or unknown."""
        return _ELEMENT_BYTES.get(self.dtype, 1)


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[Int64, ...]
    data_offsets: tuple[Int64, Int64]


def parse_header(header: bytes, data_bytes: int) -> tuple[StoredTensor, ...]:
    """The tensors that `header` (length and JSON) describes, in the order of their bytes, which fill `data_bytes`.

    Raises:
        BadInput: it is no header of such a file.
    """
    if len(header) - _LENGTH_BYTES != int.from_bytes(header[:_LENGTH_BYTES], "little"):
        raise BadInput(f"a safetensors header of {len(header)} bytes does not have the length that it says")
    try:
        entries = msgspec.json.decode(header[_LENGTH_BYTES:], type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        found = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in entries.items()}
    except MALFORMED as error:
        raise BadInput(f"this is no safetensors header: {error}") from error
    tensors = []
    end = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].data_offsets):
        begin, after = entry.data_offsets
        if begin != end or after < begin:
            raise BadInput(f"tensor {name!r} lies at bytes {begin} to {after}, but the one before it ends at {end}")
        tensors.append(StoredTensor(name, entry.dtype, entry.shape, begin, after - begin))
        end = after
    if end != data_bytes:
        raise BadInput(f"the header describes {end} bytes of tensors, the file has {data_bytes}")
    return tuple(tensors)


def read_header(path: Path) -> bytes:
    """The header of a file: its length and JSON, as they lie in it.

    Raises:
        BadInput: the file is no safetensors file. OSError: it can't be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = file.read(_LENGTH_BYTES)
        header_bytes = int.from_bytes(length, "little")
        if len(length) < _LENGTH_BYTES or header_bytes > min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise BadInput(f"{path} ({size} bytes) is no safetensors file, or is truncated")
        return length + file.read(header_bytes)


class TensorFile:
    """A safetensors file that is open for reading, whatever happens to its name meanwhile. Close it after use."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            BadInput: it is no safetensors file. OSError: it can't be read.
        """
        self.path = path
        self.header = read_header(path)
        try:
            self.tensors = parse_header(self.header, path.stat().st_size - len(self.header))
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error
        self._file = path.open("rb")

    def read(self, tensor: StoredTensor, start: int, size: int) -> bytes:
        """`size` bytes of a tensor of this file, from its byte `start` on; fewer where the file ends before."""
        self._file.seek(len(self.header) + tensor.start + start)
        return self._file.read(size)

    def close(self) -> None:
        """Close the file. Harmless when called again."""
        self._file.close()


class TensorFolder:
    """The tensors of several files of a folder, by name. A context manager that closes them."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        """Open the files `names` of `folder`.

        Raises:
            BadInput: one is no safetensors file. OSError: one can't be read.
        """
        self.files: dict[str, TensorFile] = {}
        try:
            for name in names:
                self.files[name] = TensorFile(folder / name)
        except BaseException:
            self.close()
            raise
        self._places = {tensor.name: (file, tensor) for file in self.files.values() for tensor in file.tensors}

    def find(self, name: str) -> StoredTensor | None:
        """The tensor of that name."""
        place = self._places.get(name)
        return place[1] if place is not None else None

    def read(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes of tensor `name` from its byte `start` on; fewer where it, or its file, ends before."""
        file, tensor = self._places[name]
        return file.read(tensor, start, max(0, min(size, tensor.size - start)))

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.close()

    def __enter__(self) -> TensorFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
