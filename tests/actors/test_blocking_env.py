"""Environments whose engine is in a worker process: an actor's event loop goes on, a crash ends the episode."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from lamer.actors.episode import Stage
from lamer.actors.policy import Request
from lamer.actors.trial import TrialPlay
from lamer.common.records import Completion, EpisodeStatus, MemoryMode
from lamer.envs.base import Observation, StepResult
from lamer.envs.workers.pool import PoolLimits, Session, WorkerPool
from tests.actors.parts import LIMITS, CounterEnv, lease, plain_renderer, respond
from tests.envs.workers import echo

STEP_SECONDS = 0.2


class SlowEnv(CounterEnv):
    """Counts, after its engine has slept in a worker process."""

    def __init__(self, pool: WorkerPool, goal: int = 3) -> None:
        super().__init__(goal)
        self.session: Session = pool.open("counter", b"")
        self.is_stepping = asyncio.Event()

    async def start(self) -> Observation:
        await asyncio.wrap_future(self.session.request(b"x"))
        return self.reset()

    async def play(self, response: str) -> StepResult:
        self.is_stepping.set()
        await asyncio.wrap_future(self.session.request(f"sleep {STEP_SECONDS}".encode()))
        return self.step(response)


class Player:
    """Says one, again and again. kills: the process to end before the answer of that number."""

    def __init__(self, kills: tuple[int, SlowEnv] | None = None) -> None:
        self.answers = 0
        self._kills = kills

    async def complete(self, request: Request) -> Completion:
        self.answers += 1
        if self._kills is not None and self.answers == self._kills[0]:
            pid = self._kills[1].session.worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        return respond(request, "<action>1</action>")


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(echo.OPTIONS, PoolLimits(workers=2))
    yield made
    made.close()


def trial(env: SlowEnv, player: Player) -> TrialPlay:
    return TrialPlay(Stage(lease(MemoryMode.NONE, episodes=2), env, player, plain_renderer(), LIMITS), "actor-1")


async def test_a_killed_worker_ends_its_episode_as_environment_error_and_the_next_trial_is_played(
    pool: WorkerPool,
) -> None:
    env = SlowEnv(pool)
    play = trial(env, Player(kills=(2, env)))
    failed = await play.run()
    assert [episode.status for episode in failed.episodes] == [EpisodeStatus.ENVIRONMENT_ERROR]
    assert len(failed.episodes[0].turns) == 1, "the turn before the crash"
    assert not failed.is_trainable
    assert "the worker process of echo:open_echo died" in play.failure
    solved = await trial(SlowEnv(pool), Player()).run()
    assert solved.solved_at == 0
    assert pool.counts().crashed == 1


async def test_the_event_loop_goes_on_while_sixteen_games_step(pool: WorkerPool) -> None:
    envs = [SlowEnv(pool) for _ in range(16)]
    await asyncio.gather(*(env.start() for env in envs))  # the workers are there
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - before - 0.01)

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    await asyncio.gather(*(env.play("<action>1</action>") for env in envs))
    seconds = time.monotonic() - started
    ticker.cancel()
    assert seconds >= 8 * STEP_SECONDS * 0.9, "eight steps one after the other on each of two workers"
    typical = sorted(lags)[len(lags) * 9 // 10]
    assert typical < STEP_SECONDS / 4, f"nine of ten lags are below {typical:.3f} s"


async def test_a_trial_that_is_abandoned_leaves_its_game_to_be_closed(pool: WorkerPool) -> None:
    env = SlowEnv(pool)
    task = asyncio.create_task(trial(env, Player()).run())
    await env.is_stepping.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    env.session.close()
    assert pool.counts().games == 0
    assert pool.counts().live == 1
