"""A model folder made from a manifest, a payload and the weights that it builds on. Nothing of a manifest is trusted.

check_manifest   what it describes is what was announced, and its blocks fill its files exactly
rebuild          the folder, block by block, each checked, and every file against its SHA-256
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lamer.common.blocks import BLOCK_BYTES, block_digest, decode_block, largest_frame
from lamer.common.errors import BadInput
from lamer.common.folders import whole_folder
from lamer.common.messages import WeightAnnouncement, WeightManifest
from lamer.common.tensors import StoredTensor, TensorFolder, parse_header
from lamer.common.weights import WEIGHT_SUFFIX, Block, Encoding, StreamedFile
from lamer.deploy.inference.fetching.base import DeliveryFailed
from lamer.deploy.inference.fetching.checks import check_index

AHEAD = 4
"""Blocks that are read and decoded before the first of them is written."""
MAX_DECODERS = 4
_DIGEST = re.compile(r"[0-9a-f]{32}")


class Damaged(DeliveryFailed):
    """What was made is not what was announced: the payload is damaged, or the weights that it builds on are."""


class RebuildStopped(Exception):
    """`stop` was set."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a folder is made from. base: folder of the weights built on, None for a full copy; companions: of the small
    files, None if there are none.
    """

    manifest: WeightManifest
    payload: Path
    base: Path | None
    companions: Path | None


def check_manifest(manifest: WeightManifest, wanted: WeightAnnouncement, base: str) -> None:
    """A manifest answers the request for `wanted` on top of `base`.

    Raises:
        DeliveryFailed: it does not, or describes what can't be.
    """
    if manifest.base not in ("", base):
        raise DeliveryFailed(f"the manifest builds on {manifest.base!r}, this host holds {base or 'nothing'}: refused")
    if not _is_digest(manifest.payload) or not (manifest.companions == "" or _is_digest(manifest.companions)):
        raise DeliveryFailed(
            f"payload {manifest.payload!r} or companions {manifest.companions!r} are no digests: refused"
        )
    if sorted(file.file.name for file in manifest.files) != sorted(file.name for file in wanted.files):
        names = ", ".join(repr(file.file.name) for file in manifest.files)
        raise DeliveryFailed(f"the manifest is of {names or 'no files'}, which is not what was announced: refused")
    offset = 0
    for file in manifest.files:
        if file.file not in wanted.files:
            raise DeliveryFailed(f"the manifest's {file.file} is not what was announced: refused")
        offset = _check_blocks(file, bool(manifest.base), offset)
    if offset != manifest.size:
        raise DeliveryFailed(f"the manifest's blocks take {offset} bytes of a payload of {manifest.size}: refused")


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _tensors(file: StreamedFile) -> tuple[StoredTensor, ...]:
    try:
        return parse_header(file.header, file.file.size - len(file.header))
    except BadInput as error:
        raise DeliveryFailed(f"the manifest's {file.file.name} has a wrong header: {error}") from error


def _check_blocks(file: StreamedFile, has_base: bool, offset: int) -> int:
    """The blocks fill the file's tensors in order, their frames the payload from `offset` on; where those end."""
    blocks = iter(file.blocks)
    for tensor in _tensors(file):
        start = 0
        while start < tensor.size:
            block = next(blocks, None)
            if block is None or (block.tensor, block.start) != (tensor.name, start):
                raise DeliveryFailed(f"no block of {file.file.name} is byte {start} of {tensor.name!r}: refused")
            _check_block(block, tensor, has_base, offset)
            start += block.size
            offset += block.length
    if next(blocks, None) is not None:
        raise DeliveryFailed(f"{file.file.name} has blocks past its end: refused")
    return offset


def _check_block(block: Block, tensor: StoredTensor, has_base: bool, offset: int) -> None:
    longest = 0 if block.encoding is Encoding.SAME else largest_frame(block.size)
    if (
        not 0 < block.size <= min(BLOCK_BYTES, tensor.size - block.start)
        or not 0 <= block.length <= longest
        or block.offset != offset
        or not (has_base or block.encoding is Encoding.FULL)
    ):
        raise DeliveryFailed(
            f"block {block} of a tensor of {tensor.size} bytes can't be (payload at {offset}): refused"
        )


def rebuild(parts: Parts, target: Path, stop: threading.Event) -> None:
    """Make the folder `target`, which appears whole or not at all and replaces one of that name.

    Raises:
        Damaged: a block or file is not what was announced. DeliveryFailed: the small files do not fit the weights.
        RebuildStopped: `stop` was set. OSError: the disk is full.
    """
    with whole_folder(target, replaces=True) as folder:
        if parts.companions is not None:
            shutil.copytree(parts.companions, folder, dirs_exist_ok=True)
        check_index(folder, tuple(file.file for file in parts.manifest.files))
        with (
            parts.payload.open("rb") as payload,
            _open_base(parts.base) as base,
            ThreadPoolExecutor(min(MAX_DECODERS, os.cpu_count() or 1), "weight-blocks") as pool,
        ):
            for file in parts.manifest.files:
                _rebuild_file(file, _Source(payload, base, pool), folder / file.file.name, stop)


def _open_base(folder: Path | None) -> TensorFolder:
    if folder is None:
        return TensorFolder(Path(), ())
    try:
        return TensorFolder(folder, tuple(path.name for path in folder.glob(f"*{WEIGHT_SUFFIX}")))
    except (BadInput, OSError) as error:
        raise Damaged(f"the weights in {folder} can't be built on: {error}") from error


def _rebuild_file(file: StreamedFile, source: _Source, target: Path, stop: threading.Event) -> None:
    checksum = hashlib.sha256(file.header)
    with target.open("wb") as output:
        output.write(file.header)
        for data in _blocks(file, source):
            if stop.is_set():
                raise RebuildStopped
            checksum.update(data)
            output.write(data)
    if checksum.hexdigest() != file.file.digest:
        raise Damaged(f"{target.name} has SHA-256 {checksum.hexdigest()}, {file.file.digest} was announced")


def _blocks(file: StreamedFile, source: _Source) -> Iterator[bytes]:
    """The blocks of a file in order; the next few are being decoded meanwhile."""
    element_bytes = {tensor.name: tensor.element_bytes for tensor in _tensors(file)}
    waiting: deque[Future[bytes]] = deque()
    for block in file.blocks:
        waiting.append(source.submit(block, element_bytes[block.tensor]))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    for decoding in waiting:
        yield decoding.result()


@dataclass(frozen=True, slots=True)
class _Source:
    """What blocks are read from, and the threads that decode them."""

    payload: BinaryIO
    base: TensorFolder
    pool: ThreadPoolExecutor

    def submit(self, block: Block, element_bytes: int) -> Future[bytes]:
        held = b""
        if block.encoding is not Encoding.FULL:
            held = self.base.read(block.tensor, block.start, block.size) if self.base.find(block.tensor) else b""
            if len(held) != block.size:
                raise Damaged(f"{_where(block)} can't be built: the weights to build on lack them")
        self.payload.seek(block.offset)
        return self.pool.submit(_decode, block, self.payload.read(block.length), held, element_bytes)


def _decode(block: Block, frame: bytes, held: bytes, element_bytes: int) -> bytes:
    try:
        data = decode_block(block.encoding, frame, held, block.size, element_bytes)
    except BadInput as error:
        raise Damaged(f"{_where(block)} can't be built: {error}") from error
    digest = block_digest(data)
    if digest != block.digest:
        raise Damaged(f"{_where(block)} have BLAKE2b {digest}, {block.digest} was announced")
    return data


def _where(block: Block) -> str:
    return f"bytes {block.start} to {block.start + block.size} of {block.tensor}"
