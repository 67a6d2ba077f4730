"""A blocked event loop is measured, and said so in the log."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from lamer.common.liveness.loop_lag import PERIOD_SECONDS, WARNING_SECONDS, LoopLag

log = logging.getLogger("lamer.test")


async def test_the_longest_block_is_told_once_and_a_long_one_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(log)
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0)
    time.sleep(WARNING_SECONDS + 2 * PERIOD_SECONDS)  # noqa: ASYNC251 - this is the block
    while "blocked" not in caplog.text:  # noqa: ASYNC110 - the next period
        await asyncio.sleep(PERIOD_SECONDS)
    assert lag.take() >= WARNING_SECONDS
    assert lag.take() == 0.0
    watching.cancel()
