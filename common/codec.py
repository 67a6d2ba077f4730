"""Bounded, typed MessagePack: what goes over a socket or into the journal.

Arrays travel as MessagePack extension types (1: int32, 2: float32, raw little-endian), whose header declares their
length; decoding makes a read-only view of the buffer. Everything else is plain MessagePack that any implementation
reads.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np

from lamer.common.errors import MALFORMED
from lamer.common.messages import AnyMessage
from lamer.common.records import Trial

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
INT32_EXT = 1
FLOAT32_EXT = 2

T = TypeVar("T")

_DTYPES = {INT32_EXT: np.dtype("<i4"), FLOAT32_EXT: np.dtype("<f4")}
_CODES = {np.dtype(np.int32): INT32_EXT, np.dtype(np.float32): FLOAT32_EXT}


class CodecError(ValueError):
    """Bytes that are too many, malformed, or no record of the expected type."""


def _encode_array(value: object) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"{type(value).__name__} can't be encoded")
    code = _CODES.get(value.dtype)
    if code is None or value.ndim != 1:
        raise CodecError(f"only 1-D int32 and float32 arrays travel, got {value.dtype} {value.shape}")
    return msgspec.msgpack.Ext(code, np.ascontiguousarray(value, dtype=_DTYPES[code]).tobytes())


def _decode_array(code: int, data: memoryview) -> np.ndarray:
    dtype = _DTYPES.get(code)
    if dtype is None:
        raise CodecError(f"unknown MessagePack extension type {code}")
    if len(data) % dtype.itemsize:
        raise CodecError(f"an array of {dtype} can't have {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_MESSAGE_DECODER: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage, ext_hook=_decode_array)
_TRIAL_DECODER: msgspec.msgpack.Decoder[Trial] = msgspec.msgpack.Decoder(Trial, ext_hook=_decode_array)


def _encode(value: AnyMessage | Trial, max_bytes: int) -> bytes:
    data = _ENCODER.encode(value)
    if len(data) > max_bytes:
        raise CodecError(f"a {type(value).__name__} of {len(data)} bytes is over the limit of {max_bytes}")
    return data


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, max_bytes: int) -> T:
    if len(data) > max_bytes:
        raise CodecError(f"{len(data)} bytes are over the limit of {max_bytes}")
    try:
        return decoder.decode(data)
    except MALFORMED as error:
        raise CodecError(f"{len(data)} bytes are no valid record: {error}") from error


def encode_message(message: AnyMessage, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """A message as bytes.

    Raises:
        CodecError: it is over `max_bytes`. ZeroMQ would drop it silently and its resend would loop for ever.
    """
    return _encode(message, max_bytes)


def decode_message(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> AnyMessage:
    """The message that `data` holds.

    Raises:
        CodecError: too many bytes, malformed, an unknown type, or a record whose invariants do not hold.
    """
    return _decode(_MESSAGE_DECODER, data, max_bytes)


def encode_trial(trial: Trial, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    """A trial as bytes: the body of `TrialDone` and of a journal row."""
    return _encode(trial, max_bytes)


def decode_trial(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> Trial:
    """The trial that `data` holds.

    Raises:
        CodecError: too many bytes, malformed, or a trial whose invariants do not hold.
    """
    return _decode(_TRIAL_DECODER, data, max_bytes)
