"""Odd bytes made of sound ones: bits, slices and lengths of what is encoded, and values of what was decoded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import msgspec.inspect
import numpy as np

from lamer.common.codec import encode_message
from lamer.common.messages import MESSAGE_TYPES, AnyMessage

ODD_NUMBERS: tuple[object, ...] = (0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**6)
ODD_FLOATS: tuple[object, ...] = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e300, -3e38, 1e-300)
ODD_TEXTS: tuple[object, ...] = ("", "\n", "\x00", "../..", "a" * 3000, "\u2028", "test-1/train/0/0", "NaN")
ODD_OTHERS: tuple[object, ...] = (None, True, b"", b"\xc1", [], {}, [[[[]]]], {"a": {"a": {}}})


def sample(kind: msgspec.inspect.Type) -> Any:  # noqa: ANN401 - of any type
    """A small value of a type."""
    match kind:
        case msgspec.inspect.StructType():
            return kind.cls(**{field.name: sample(field.type) for field in kind.fields})
        case msgspec.inspect.EnumType():
            return next(iter(kind.cls))
        case msgspec.inspect.UnionType():
            return sample(kind.types[0])
        case msgspec.inspect.VarTupleType():
            return (sample(kind.item_type),)
        case msgspec.inspect.TupleType():
            return tuple(map(sample, kind.item_types))
        case msgspec.inspect.CustomType():
            return np.ones(1, np.int32)
    plain = {"IntType": 1, "FloatType": 1.0, "StrType": "test-1/train/0/0", "BytesType": b"x", "BoolType": True}
    return plain.get(type(kind).__name__)


def sound_frames() -> tuple[bytes, ...]:
    """A frame of every type of message."""
    messages: list[AnyMessage] = [sample(msgspec.inspect.type_info(kind)) for kind in MESSAGE_TYPES]
    return tuple(map(encode_message, messages))


class Mutator:
    """Makes odd bytes; the same seed makes the same ones."""

    def __init__(self, seed: int, frames: Sequence[bytes] = ()) -> None:
        """frames: what slices are taken from."""
        self.rng = random.Random(seed)
        self._frames = frames or (b"x",)

    def mutated(self, data: bytes) -> bytes:
        """`data`, a little or very different."""
        if self.rng.random() < 0.6:
            try:
                return self._restructured(data)
            except (ValueError, TypeError, OverflowError, msgpack.exceptions.ExtraData):
                pass
        return self.of_bytes(data)

    def of_bytes(self, data: bytes) -> bytes:
        """`data` with bytes changed, whatever they stand for."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
            data = self.rng.choice(self._of_bytes())(data)
        return data

    def _of_bytes(self) -> Sequence[Callable[[bytes], bytes]]:
        ways = (self._truncate, self._insert, self._remove, self._repeat, self._splice, self._nest)
        return (self._flip, self._flip, *ways)

    def _place(self, data: bytes) -> int:
        return self.rng.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data or b"x")
        changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _insert(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self.rng.randbytes(self.rng.choice((1, 2, 8, 200))) + data[place:]

    def _remove(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + data[place + self.rng.choice((1, 2, 8)) :]

    def _repeat(self, data: bytes) -> bytes:
        place, size = self._place(data), self.rng.choice((1, 9, 50))
        return data[:place] + data[place : place + size] * self.rng.choice((2, 3, 50)) + data[place:]

    def _splice(self, data: bytes) -> bytes:
        other = self.rng.choice(self._frames)
        return data[: self._place(data)] + other[self._place(other) :]

    def _nest(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self.rng.choice((b"\x81\xa1a", b"\x91", b"\x91\x81\x01")) * 3000 + data[place:]

    def _restructured(self, data: bytes) -> bytes:
        """One value of what was decoded is another, in place or anywhere else."""
        tree = msgpack.unpackb(data, ext_hook=msgpack.ExtType, strict_map_key=False)
        holders = list(_holders(tree))
        if not holders:
            raise ValueError("nothing to change")
        for _ in range(self.rng.choice((1, 1, 1, 2, 4))):
            holder, key = self.rng.choice(holders)
            holder[key] = self._odd(holder[key])
        packed: bytes = msgpack.packb(tree)
        return packed

    def _odd(self, value: object) -> object:
        if self.rng.random() < 0.1:
            return self.rng.choice((*ODD_NUMBERS, *ODD_FLOATS, *ODD_TEXTS, *ODD_OTHERS))
        match value:
            case bool():
                return not value
            case float():
                return self.rng.choice((*ODD_FLOATS, *ODD_NUMBERS, value + 1))
            case int():
                return self.rng.choice((*ODD_NUMBERS, value + 1, value - 1))
            case str():
                return self.rng.choice((*ODD_TEXTS, value + "x"))
            case msgpack.ExtType(code=code, data=data):
                changed = self._flip(data) * self.rng.choice((1, 2))
                return msgpack.ExtType(self.rng.choice((code, code, 1, 2, 3)), changed)
            case bytes():
                return self.mutated(value)
            case list():
                return self.rng.choice(([], value + value, value[:-1], [value]))
            case _:
                return self.rng.choice(ODD_OTHERS)


def _holders(tree: object) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree of maps and arrays."""
    found: list[tuple[Any, Any]] = []
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            found.append((tree, key))
            found += _holders(value)
    return found
