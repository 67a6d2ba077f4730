"""The budget of restarts, with the time handed in; and the trainer's, with a clock that does not wait."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import pytest

from lamer.common.errors import OutOfMemory, RunFailed
from lamer.common.liveness.restarts import HEALTHY_SECONDS, Clock, Restarts
from lamer.common.settings import Settings
from lamer.deploy.run.folder import RunFolder
from lamer.deploy.run.learning import TrainerKeeper


class Process:
    """A process on a clock of its own."""

    def __init__(self, most: int) -> None:
        self.restarts = Restarts(most)
        self.now = 1000.0

    def lives(self, seconds: float) -> float | None:
        """Up for so long, then dead: how long it waits."""
        self.restarts.started(self.now)
        self.now += seconds
        wait = self.restarts.ended(self.now)
        self.now += wait or 0.0
        return wait


def test_waits_double_from_one_second_to_a_minute() -> None:
    process = Process(9)
    assert [process.lives(0.0) for _ in range(10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60, None]


def test_deaths_in_a_row_use_the_budget_up() -> None:
    process = Process(5)
    assert [process.lives(1.0) is None for _ in range(6)] == [False] * 5 + [True]


def test_six_deaths_in_a_week_end_nothing() -> None:
    process = Process(5)
    assert [process.lives(28 * 3600.0) for _ in range(20)] == [1.0] * 20


def test_one_restart_is_given_back_for_ten_healthy_minutes() -> None:
    process = Process(5)
    for _ in range(5):
        process.lives(0.0)
    assert process.lives(HEALTHY_SECONDS - 1.0) is None
    assert process.restarts.used == 5
    assert process.lives(1.0) == 16.0, "lives add up"
    assert process.lives(3.5 * HEALTHY_SECONDS) == 4.0
    assert process.restarts.used == 3
    process.lives(0.5 * HEALTHY_SECONDS)
    assert process.restarts.used == 3, "the half that was left over counts"


def test_more_than_the_whole_budget_is_never_given_back() -> None:
    process = Process(2)
    process.lives(100 * HEALTHY_SECONDS)
    process.lives(100 * HEALTHY_SECONDS)
    assert [process.lives(0.0), process.lives(0.0)] == [2.0, None]


def test_waiting_is_no_health() -> None:
    process = Process(3)
    process.lives(0.0)
    process.now += HEALTHY_SECONDS
    process.lives(0.0)
    assert process.restarts.used == 2


class ScriptedKeeper(TrainerKeeper):
    """Keeps a process that dies at once, and ends on purpose the tenth time. It lives for `lifetime` on its clock."""

    def __init__(self, folder: Path, lifetime: int, code: int = 1) -> None:
        self.code = code
        self.waits: list[float] = []
        self.starts = 0
        times = itertools.count(0, lifetime)

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        super().__init__(RunFolder(folder, Settings(), is_resumed=False), Clock(lambda: next(times), sleep))

    async def _command(self) -> tuple[str, ...]:
        self.starts += 1
        return (
            sys.executable,
            "-S",
            "-c",
            f"print('lamer: no memory'); raise SystemExit({self.code if self.starts < 10 else 0})",
        )


async def test_a_trainer_that_keeps_dying_ends_the_run_after_waits_that_double(tmp_path: Path) -> None:
    keeper = ScriptedKeeper(tmp_path, lifetime=1)
    with pytest.raises(RunFailed, match="no memory"):
        await keeper.keep()
    assert (keeper.starts, keeper.waits) == (4, [1.0, 2.0, 4.0])


async def test_a_trainer_without_enough_memory_is_not_started_again(tmp_path: Path) -> None:
    keeper = ScriptedKeeper(tmp_path, lifetime=1, code=OutOfMemory.trainer_code)
    with pytest.raises(OutOfMemory, match="no memory") as ended:
        await keeper.keep()
    assert (keeper.starts, keeper.waits, ended.value.exit_code) == (1, [], 1)


@pytest.mark.parametrize("code", [1, 130])
async def test_a_trainer_that_dies_now_and_then_is_started_again_for_ever(tmp_path: Path, code: int) -> None:
    """130: somebody interrupts the trainer, and not the run."""
    keeper = ScriptedKeeper(tmp_path, lifetime=600, code=code)
    await keeper.keep()
    assert (keeper.starts, keeper.waits) == (10, [1.0] * 9)


async def test_a_trainer_is_not_started_again_once_the_run_is_ending(tmp_path: Path) -> None:
    keeper = ScriptedKeeper(tmp_path, lifetime=1)
    ended = asyncio.Event()

    async def sleep(_: float) -> None:
        await keeper.end(0.0, None)
        ended.set()

    keeper._clock = Clock(lambda: 0.0, sleep)
    await keeper.keep()
    assert ended.is_set()
    assert keeper.starts == 1
