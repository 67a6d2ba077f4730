"""The codec: any MessagePack reader understands what it writes, and hostile bytes are refused."""

from __future__ import annotations

import struct

import msgpack
import msgspec.inspect
import numpy as np
import pytest

from lamer.common.codec import (
    FLOAT32_EXT,
    INT32_EXT,
    CodecError,
    decode_message,
    decode_trial,
    encode_message,
    encode_trial,
)
from lamer.common.messages import MESSAGE_TYPES, Ack, Batch, Heartbeat, Hello, Lease, Role, Sampling, TrialDone
from lamer.common.records import (
    Completion,
    Episode,
    EpisodeStatus,
    FinishReason,
    MemoryMode,
    Purpose,
    Reflection,
    Task,
    Trial,
    Turn,
    VersionSpan,
)


def completion(tokens: int = 3) -> Completion:
    return Completion(
        prompt_ids=np.array([1, -2, 2**31 - 1], dtype=np.int32),
        ids=np.arange(tokens, dtype=np.int32),
        behaviour_logprobs=np.linspace(-3, -1e-7, tokens, dtype=np.float32),
        versions=(VersionSpan(4, 0, 1), VersionSpan(5, 1, tokens)),
        finish_reason=FinishReason.STOP,
        temperature=0.7,
        cached_tokens=2,
    )


def trial() -> Trial:
    episodes = (
        Episode(
            0, (Turn(completion(), None, -0.1, "hall"), Turn(completion(), "left", 0.0, "yard")), EpisodeStatus.FAILED
        ),
        Episode(1, (Turn(completion(), "right", 1.0, "hall"),), EpisodeStatus.SOLVED),
    )
    remark = Reflection(completion(), "try the right — 右", is_valid=True)
    task = Task("doors", '{"doors":5}', 7)
    return Trial("run-1/train/3/1", 3, 1, Purpose.TRAIN, task, episodes, (remark,), "actor-1", 1.5)


def plain(data: bytes) -> object:
    """What the reference implementation makes of bytes: extension types as (code, data)."""
    return msgpack.unpackb(data, ext_hook=lambda code, body: (code, body))


def test_a_trial_comes_back_equal_in_every_array_and_field() -> None:
    one = trial()
    other = decode_trial(encode_trial(one))
    assert encode_trial(other) == encode_trial(one)
    for mine, theirs in zip(one.completions(), other.completions(), strict=True):
        for name in ("prompt_ids", "ids", "behaviour_logprobs"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
            assert getattr(theirs, name).dtype == getattr(mine, name).dtype
    assert other.reflections[0].text == one.reflections[0].text


def test_the_reference_package_reads_arrays_as_raw_little_endian_buffers() -> None:
    seen = plain(encode_trial(trial()))
    assert isinstance(seen, dict)
    first = seen["episodes"][0]["turns"][0]["completion"]
    assert first["prompt_ids"] == (INT32_EXT, struct.pack("<3i", 1, -2, 2**31 - 1))
    assert first["behaviour_logprobs"] == (FLOAT32_EXT, completion().behaviour_logprobs.astype("<f4").tobytes())
    assert first["versions"] == [[4, 0, 1], [5, 1, 3]]
    assert seen["trial_id"] == "run-1/train/3/1"


def test_bytes_of_the_reference_package_are_read() -> None:
    seen = msgpack.unpackb(encode_trial(trial()))
    assert encode_trial(decode_trial(msgpack.packb(seen))) == encode_trial(trial())


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, 1, Role.ACTOR, "a", capacity=8),
        Heartbeat(3),
        Ack(("r/train/0/0", "r/train/0/1")),
        Batch(1, 0, ("r/train/0/0",)),
        TrialDone("r/train/0/0", b"\x00\xff"),
        Lease(
            "r/train/0/0",
            0,
            0,
            Purpose.TRAIN,
            Task("doors", "{}", 1),
            3,
            MemoryMode.BOTH,
            Sampling(1.0, 1.0, 0, 8, 8),
            9.5,
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back_equal_and_its_tag_is_its_name(message: Hello) -> None:
    data = encode_message(message)
    assert decode_message(data) == message
    seen = plain(data)
    assert isinstance(seen, dict)
    assert seen["type"] == type(message).__name__


def test_every_message_type_has_a_tag_of_its_own() -> None:
    tags = [kind.__struct_config__.tag for kind in MESSAGE_TYPES]
    assert len(set(tags)) == len(tags)


def test_every_truncation_of_a_trial_is_refused() -> None:
    data = encode_trial(trial())
    for length in range(0, len(data), 7):
        with pytest.raises(CodecError):
            decode_trial(data[:length])


def test_what_a_prompt_left_out_travels_and_is_not_written_where_nothing_was() -> None:
    """So that bytes of before are read, and bytes of trials with whole prompts are what they were before."""
    seen = msgpack.unpackb(encode_trial(trial()))
    assert "left_out_tokens" not in seen["episodes"][0]["turns"][0]["completion"]
    assert next(decode_trial(msgpack.packb(seen)).completions()).left_out_tokens == 0
    assert next(decode_trial(packed_with(left_out_tokens=12)).completions()).left_out_tokens == 12


def packed_with(**changes: object) -> bytes:
    """A valid trial whose first completion has some fields replaced."""
    seen = msgpack.unpackb(encode_trial(trial()))
    seen["episodes"][0]["turns"][0]["completion"].update(changes)
    packed: bytes = msgpack.packb(seen)
    return packed


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": msgpack.ExtType(INT32_EXT, b"\x00" * 7)},
        {"ids": msgpack.ExtType(INT32_EXT, b"\x00" * 8)},
        {"ids": msgpack.ExtType(FLOAT32_EXT, b"\x00" * 12)},
        {"ids": msgpack.ExtType(9, b"\x00" * 12)},
        {"ids": [0, 1, 2]},
        {"behaviour_logprobs": msgpack.ExtType(FLOAT32_EXT, struct.pack("<3f", 0, float("nan"), 0))},
        {"versions": [[4, 0, 2]]},
        {"versions": [[4, 0, 2], [5, 1, 3]]},
        {"finish_reason": "bored"},
        {"surprise": 1},
    ],
    ids=[
        "length is no multiple of four",
        "fewer ids than logprobs",
        "floats where ids belong",
        "unknown extension type",
        "a list instead of an array",
        "not a number",
        "spans too short",
        "spans overlap",
        "unknown enum value",
        "unknown field",
    ],
)
def test_a_trial_that_contradicts_its_definition_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        decode_trial(packed_with(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb({"type": "Exec", "code": "1"}),
        msgpack.packb({"type": "Heartbeat", "in_flight": "many"}),
        msgpack.packb({"in_flight": 1}),
        msgpack.packb([1, 2, 3]),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ],
    ids=["empty", "reserved", "unknown tag", "wrong type", "no tag", "array", "huge array", "huge bin", "deep"],
)
def test_bytes_that_are_no_message_are_refused_without_more_memory_than_they_are(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_message(data)


def test_messages_over_the_limit_are_refused_at_both_ends() -> None:
    message = TrialDone("r/train/0/0", b"x" * 1000)
    with pytest.raises(CodecError, match="over the limit of 500"):
        encode_message(message, max_bytes=500)
    with pytest.raises(CodecError, match="over the limit of 500"):
        decode_message(encode_message(message), max_bytes=500)


NESTED = b"\x82\xa1a" + b"\x81\xa1a" * 5000 + b"\xc0\xa4type\xa9Heartbeat"
"""Maps in maps, 15 KB, in a field that no message has."""


@pytest.mark.parametrize("data", [NESTED, b"\x91" * 100_000 + b"\xc0", b"\x81\xa1a" * 100_000])
def test_bytes_nested_beyond_the_stack_are_a_codec_error(data: bytes) -> None:
    for decode in (decode_message, decode_trial):
        with pytest.raises(CodecError):
            decode(data)


def test_every_number_of_every_record_fits_63_bits() -> None:
    """One that does not fit would end whoever stores it or puts it into an array; floats are each part's own matter."""
    unbounded: list[str] = []

    def visit(place: str, kind: msgspec.inspect.Type, seen: frozenset[type]) -> None:
        if isinstance(kind, msgspec.inspect.IntType) and (kind.ge, kind.le) != (-(2**63), 2**63 - 1):
            unbounded.append(place)
        if isinstance(kind, msgspec.inspect.StructType) and kind.cls not in seen:
            for field in kind.fields:
                visit(f"{kind.cls.__name__}.{field.name}", field.type, seen | {kind.cls})
        for inner in (*getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
            visit(place, inner, seen)
        if isinstance(inner := getattr(kind, "item_type", None), msgspec.inspect.Type):
            visit(place, inner, seen)

    for kind in (*MESSAGE_TYPES, Trial):
        visit(kind.__name__, msgspec.inspect.type_info(kind), frozenset())
    assert unbounded == []


@pytest.mark.parametrize(("version", "is_held"), [(2**63 - 1, True), (2**63, False), (2**64 - 1, False)])
def test_a_number_beyond_63_bits_is_a_codec_error(version: int, is_held: bool) -> None:
    data = msgpack.packb({"type": "BatchRequest", "policy_version": version})
    if is_held:
        decode_message(data)
    else:
        with pytest.raises(CodecError, match="policy_version"):
            decode_message(data)
