"""What keeps a receiving process safe from its peers: bounded lines, a bounded inbox, bounded answers, a guard."""

from __future__ import annotations

import asyncio
import logging

import pytest

from lamer.common.config import from_json
from lamer.common.errors import BadInput, RunFailed
from lamer.common.liveness.bounded import read_bounded
from lamer.common.liveness.guard import surviving
from lamer.common.liveness.inbox import Inbox
from lamer.common.liveness.line_budget import LINES, SECONDS, LineBudget
from lamer.common.tensors import parse_header

log = logging.getLogger("lamer.test")


def logged(budget: LineBudget, message: str, *values: object) -> str | None:
    """The line that a log with this budget writes, None for none."""
    record = log.makeRecord(log.name, logging.WARNING, "file", 1, message, values, None)
    return record.getMessage() if budget.filter(record) else None


def test_a_kind_of_line_has_a_budget_whoever_is_behind_it_and_what_was_left_out_is_told() -> None:
    now = 0.0
    budget = LineBudget(lambda: now)
    lines = [logged(budget, "%s was refused", f"peer {number}") for number in range(1000)]
    assert lines[:LINES] == [f"peer {number} was refused" for number in range(LINES)]
    assert lines[LINES:] == [None] * (1000 - LINES)
    assert logged(budget, "%s joined", "another kind") == "another kind joined"
    now = SECONDS
    left_out = f"({1000 - LINES} lines like this one were left out before it)"
    assert logged(budget, "%s was refused", "x") == f"x was refused {left_out}"


def test_a_value_cannot_pass_for_a_line_of_its_own_nor_fill_the_log() -> None:
    line = logged(LineBudget(), "%s failed", "a\n2026-01-01 lamer.gateway the run is over\x1b[2J 100%\u2028")
    assert line == "a\\n2026-01-01 lamer.gateway the run is over\\x1b[2J 100%\\u2028 failed"
    long = logged(LineBudget(), "%s failed", "a" * 1_000_000)
    assert long is not None
    assert len(long) < 2100
    assert long.endswith("more characters")


async def test_an_inbox_holds_its_sender_back_by_messages_and_by_bytes() -> None:
    inbox: Inbox[str] = Inbox(most=2, most_bytes=100)
    await inbox.put("a", 60)
    assert not inbox.is_full
    await inbox.put("b", 60)
    assert inbox.is_full
    waiting = asyncio.create_task(inbox.put("c", 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await inbox.get() == "a"
    await waiting
    inbox.close()
    assert [await inbox.get(), await inbox.get(), await inbox.get()] == ["b", "c", None]


async def test_one_message_may_be_more_than_an_inbox_of_bytes() -> None:
    inbox: Inbox[str] = Inbox(most=2, most_bytes=100)
    await inbox.put("large", 1000)
    assert inbox.is_full
    assert await inbox.get() == "large"
    assert not inbox.is_full


class Endless:
    async def readany(self) -> bytes:
        return b"x" * 1000


async def test_an_answer_without_an_end_is_given_up_at_its_bound() -> None:
    assert await read_bounded(Endless(), 10_000) is None


def test_a_message_that_cannot_be_dealt_with_is_logged_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with surviving(log, "hello", "actor a"):
        raise ZeroDivisionError("nobody foresaw it")
    assert "a str from actor a could not be dealt with" in caplog.text
    assert "nobody foresaw it" in caplog.text


def test_what_is_meant_to_end_the_process_passes() -> None:
    with pytest.raises(RunFailed), surviving(log, "hello", "actor a"):
        raise RunFailed("the run failed")


@pytest.mark.parametrize("inside", [b"[" * 100_000, b'{"a":' * 100_000])
def test_a_header_of_weights_nested_beyond_the_stack_is_bad_input(inside: bytes) -> None:
    json = b'{"tensor":' + inside
    with pytest.raises(BadInput, match="no safetensors header"):
        parse_header(len(json).to_bytes(8, "little") + json, 0)


def test_a_configuration_nested_beyond_the_stack_is_bad_input() -> None:
    with pytest.raises(BadInput, match="nested too deeply"):
        from_json('{"env":' + "[" * 100_000 + "]" * 100_000 + "}")
