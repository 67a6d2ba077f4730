"""How a block of a tensor's bytes travels: XOR with the bytes that the receiver has, byte planes, zstd.

A small step of an optimizer leaves most weights as they were and changes the low bits of the others. XOR makes the
first zeros; sorting the rest by their place in an element (all first bytes, then all second bytes) puts those zeros
together, which zstd then makes small. A whole copy gains as well: signs and exponents are alike.
"""

from __future__ import annotations

import hashlib

import numpy as np
import zstandard

from lamer.common.errors import BadInput
from lamer.common.weights import Encoding

BLOCK_BYTES = 32 * 1024 * 1024
LEVEL = 1
_DIGEST_BYTES = 16
_SLACK = 1024


def block_digest(data: bytes) -> str:
    """BLAKE2b-128, hexadecimal."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def largest_frame(size: int) -> int:
    """No zstd frame of `size` bytes is longer."""
    return size + (size >> 7) + _SLACK


def encode_block(data: bytes, base: bytes | None, element_bytes: int) -> tuple[Encoding, bytes]:
    """A block for a receiver that has `base`, of the same length, in its place; None if it has nothing.

    Returns:
        how it is encoded, and its zstd frame (empty if it is the same).
    """
    if base is None:
        return Encoding.FULL, _compress(np.frombuffer(data, np.uint8), element_bytes)
    if data == base:
        return Encoding.SAME, b""
    return Encoding.XOR, _compress(_xor(np.frombuffer(data, np.uint8), base), element_bytes)


def decode_block(encoding: Encoding, frame: bytes, base: bytes, size: int, element_bytes: int) -> bytes:
    """The `size` bytes that `encode_block` was given. base: the same as there; empty for a FULL block.

    Raises:
        BadInput: the frame is none, or of another size.
    """
    if encoding is Encoding.SAME:
        return base
    try:
        if zstandard.frame_content_size(frame) != size:  # checked first: decompress allocates what the frame says
            raise BadInput(f"a frame of {zstandard.frame_content_size(frame)} bytes came for a block of {size}")
        planes = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadInput(f"a block's zstd frame is damaged: {error}") from error
    data = np.frombuffer(planes, np.uint8)
    if _has_planes(size, element_bytes):
        data = _interleave(data.reshape(element_bytes, -1))
    return data.tobytes() if encoding is Encoding.FULL else _xor(data, base).tobytes()


def _xor(data: np.ndarray, base: bytes) -> np.ndarray:
    changes: np.ndarray = np.bitwise_xor(data, np.frombuffer(base, np.uint8))
    return changes


def _interleave(planes: np.ndarray) -> np.ndarray:
    """uint8 [planes, elements] -> [bytes]. Six times as fast plane by plane as a transposed copy."""
    data = np.empty(planes.size, np.uint8)
    for index, plane in enumerate(planes):
        data[index :: len(planes)] = plane
    return data


def _has_planes(size: int, element_bytes: int) -> bool:
    return element_bytes > 1 and size % element_bytes == 0


def _compress(data: np.ndarray, element_bytes: int) -> bytes:
    if _has_planes(data.size, element_bytes):
        data = np.ascontiguousarray(data.reshape(-1, element_bytes).T)
    return zstandard.ZstdCompressor(level=LEVEL).compress(data.reshape(-1).data)
