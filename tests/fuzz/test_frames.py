"""The attack of `tests.fuzz.frames` at a size for every day; `make fuzz` has the whole one."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec.inspect
import pytest

from lamer.common.codec import decode_message
from lamer.common.messages import MESSAGE_TYPES
from lamer.learner.gateway import gateway
from tests.fuzz.frames import fuzz
from tests.fuzz.mutation import Mutator, sound_frames

FRAMES = 20_000


def test_there_is_a_sound_frame_of_every_message() -> None:
    assert [type(decode_message(frame)) for frame in sound_frames()] == list(MESSAGE_TYPES)
    assert msgspec.inspect.type_info(MESSAGE_TYPES[0])


def test_a_seed_makes_the_same_bytes_again() -> None:
    first, second = (Mutator(3, sound_frames()) for _ in range(2))
    for frame in sound_frames() * 10:
        assert first.mutated(frame) == second.mutated(frame)


async def test_20000_mutated_frames_end_nothing_train_nothing_odd_and_keep_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway, "GOODBYE_SECONDS", 0.1)
    caplog.set_level(logging.ERROR, "lamer")
    result = await fuzz(tmp_path, seed=1, frames=FRAMES)
    print(result)
    assert caplog.text == ""
    assert result.is_alive
    assert result.objections == []
    assert result.fuzzed_leases > 0
    assert result.quarantined > 0
    assert result.trained > 0
    assert all(sum(result.served[tenth : tenth + 4]) > 0 for tenth in range(7))
    assert result.rss[1] < 1.1 * result.rss[0] + 20  # of a process that runs everything, tests of before included
