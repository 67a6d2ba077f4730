"""Payloads: what turns the weights of one folder into those of another, or makes them out of nothing.

A payload is a file of zstd frames, block after block (`common.blocks`); its description is what a `WeightManifest`
carries. Files are read block by block, encoded by a pool, and checked against their announcement on the way: memory
holds a few blocks, whatever the model's size.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lamer.common.blocks import BLOCK_BYTES, block_digest, encode_block
from lamer.common.errors import BadInput, LamerError
from lamer.common.messages import WeightAnnouncement
from lamer.common.tensors import StoredTensor, TensorFile, TensorFolder
from lamer.common.weights import Block, Encoding, StreamedFile, WeightFile

AHEAD = 4
"""Blocks that are read and encoded before the first of them is written."""


class Stopped(LamerError):
    """The payload was not finished: the gateway is closing."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A finished payload. digest: BLAKE2b-128 of its `size` bytes, hexadecimal. base: identity, "" for a full copy."""

    digest: str
    identity: str
    base: str
    path: Path
    size: int
    files: tuple[StreamedFile, ...]


def make_payload(
    wanted: WeightAnnouncement,
    base: WeightAnnouncement | None,
    folder: Path,
    pool: ThreadPoolExecutor,
    stop: threading.Event,
) -> Payload:
    """Write the payload from `base` (None: from nothing) to `wanted` into `folder`, named by its digest.

    Raises:
        BadInput: the wanted files are not those that were announced. OSError: they, or those of `base`, are gone, or
        the disk is full. Stopped: `stop` was set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with (
            os.fdopen(descriptor, "wb") as target,
            _opened(wanted) as ours,
            _opened(base) as theirs,
        ):
            maker = _Maker(target, theirs, pool, stop)
            files = tuple(maker.add(ours.files[file.name], file) for file in wanted.files)
        path = folder / maker.digest.hexdigest()
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return Payload(path.name, wanted.identity, base.identity if base else "", path, maker.offset, files)


def _opened(weights: WeightAnnouncement | None) -> TensorFolder:
    if weights is None:
        return TensorFolder(Path(), ())
    return TensorFolder(Path(weights.path), tuple(file.name for file in weights.files))


@dataclass(frozen=True, slots=True)
class _Encoded:
    encoding: Encoding
    frame: bytes
    digest: str


def _encode(data: bytes, base: bytes | None, element_bytes: int) -> _Encoded:
    encoding, frame = encode_block(data, base, element_bytes)
    return _Encoded(encoding, frame, block_digest(data))


class _Maker:
    """Writes one payload, file after file. base: the tensors that the receiver has."""

    def __init__(self, target: BinaryIO, base: TensorFolder, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.offset = 0
        self._target = target
        self._base = base
        self._pool = pool
        self._stop = stop

    def add(self, source: TensorFile, announced: WeightFile) -> StreamedFile:
        """Encode one file."""
        checksum = hashlib.sha256(source.header)
        waiting: deque[tuple[StoredTensor, int, int, Future[_Encoded]]] = deque()
        blocks: list[Block] = []
        for tensor, start, data in self._read(source):
            checksum.update(data)
            base = self._find(tensor, start, len(data))
            work = self._pool.submit(_encode, data, base, tensor.element_bytes)
            waiting.append((tensor, start, len(data), work))
            if len(waiting) > AHEAD:
                blocks.append(self._write(*waiting.popleft()))
        blocks.extend(self._write(*block) for block in waiting)
        if checksum.hexdigest() != announced.digest:
            raise BadInput(f"{source.path} has SHA-256 {checksum.hexdigest()}, {announced.digest} was announced")
        return StreamedFile(announced, source.header, tuple(blocks))

    def _read(self, source: TensorFile) -> Iterator[tuple[StoredTensor, int, bytes]]:
        """The file's data in blocks: the tensor, where in it the block starts, its bytes."""
        for tensor in source.tensors:
            for start in range(0, tensor.size, BLOCK_BYTES):
                if self._stop.is_set():
                    raise Stopped("the learner is closing")
                size = min(BLOCK_BYTES, tensor.size - start)
                data = source.read(tensor, start, size)
                if len(data) < size:
                    raise BadInput(f"{source.path} was truncated while it was read")
                yield tensor, start, data

    def _find(self, tensor: StoredTensor, start: int, size: int) -> bytes | None:
        """What the receiver has in a block's place."""
        held = self._base.find(tensor.name)
        if held is None or (held.dtype, held.shape, held.size) != (tensor.dtype, tensor.shape, tensor.size):
            return None
        data = self._base.read(tensor.name, start, size)
        return data if len(data) == size else None

    def _write(self, tensor: StoredTensor, start: int, size: int, work: Future[_Encoded]) -> Block:
        encoded = work.result()
        offset, length = self.offset, len(encoded.frame)
        self._target.write(encoded.frame)
        self.digest.update(encoded.frame)
        self.offset += length
        return Block(tensor.name, start, size, encoded.encoding, offset, length, encoded.digest)
