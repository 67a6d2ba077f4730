"""Many games of an environment at once, as an actor plays them: steps, memory over time, and what its event loop feels.

Every game is played by scripted random play, awaited as actors await environments: a task for two episodes, then the
next one. Samples are taken at a fixed pace; lag is how late the event loop woke up, the greatest between two samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lamer.common.errors import LamerError
from lamer.common.records import Task, training_seed
from lamer.common.settings import Settings
from lamer.deploy.run.supervisor import first_error
from lamer.envs import registry
from lamer.envs.base import EnvironmentFault
from lamer.envs.results import closing_env
from lamer.envs.workers.pool import MIB, PoolCounts, shared_counts
from lamer.envs.workers.process import resident_bytes

EPISODES = 2
TICK_SECONDS = 0.01
SAMPLES = 60
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GamesBenchOptions:
    """games: live at once. output: where the report is written, None for nowhere."""

    games: int = 64
    seconds: float = 600.0
    output: Path | None = None


class Sample(msgspec.Struct, frozen=True):
    """The state at a moment. seconds: since the start. MiB of this process and of its workers; lag in milliseconds."""

    seconds: float
    steps: int
    episodes: int
    games: int
    workers: int
    recycled: int
    own_mib: float
    workers_mib: float
    lag_ms: float


class GamesReport(msgspec.Struct, frozen=True):
    """What was measured."""

    env: str
    games: int
    steps: int
    episodes: int
    solved: int
    faults: int
    started: int
    recycled: int
    crashed: int
    hung: int
    seconds: float
    steps_per_second: float
    largest_workers_mib: float
    median_lag_ms: float
    samples: tuple[Sample, ...]

    def lines(self) -> list[str]:
        """The figures, for people."""
        return [
            f"{self.env}: {self.games} games at once for {self.seconds:.0f} s: {self.steps} steps "
            f"({self.steps_per_second:.1f}/s), {self.episodes} episodes, {self.solved} solved, {self.faults} faults",
            f"workers: {self.started} started, {self.recycled} recycled, {self.crashed} crashed, {self.hung} hung; "
            f"at most {self.largest_workers_mib:.0f} MiB together",
            f"event loop: half of the samples saw no lag above {self.median_lag_ms:.1f} ms",
        ]


@dataclass(slots=True)
class _Tally:
    """What the players did, and how late the loop was since the last sample."""

    steps: int = 0
    episodes: int = 0
    solved: int = 0
    faults: int = 0
    lag: float = 0.0
    samples: list[Sample] = field(default_factory=list)


async def run_games_bench(settings: Settings, options: GamesBenchOptions, note: Note) -> GamesReport:
    """Play for as long as asked, and report.

    Raises:
        Missing: the environment, its engine or its data is not there. BadInput: its options can't be used.
    """
    tally, started = _Tally(), time.monotonic()
    with contextlib.suppress(TimeoutError):
        try:
            async with asyncio.timeout(options.seconds), asyncio.TaskGroup() as group:
                group.create_task(_watch(tally, started, options.seconds / SAMPLES, note))
                group.create_task(_feel(tally))
                for number in range(options.games):
                    group.create_task(_play(settings, number, options.games, tally))
        except* LamerError as errors:
            raise first_error(errors) from None
    report = _report(settings, options, tally, shared_counts(), time.monotonic() - started)
    if options.output is not None:
        options.output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return report


async def _play(settings: Settings, number: int, stride: int, tally: _Tally) -> None:
    """One task after the other: the numbers `number`, `number + stride`, ..."""
    env_config = registry.canonical_config(settings.env.name, settings.env.options)
    rng = random.Random(number)
    index = number
    while True:
        task = Task(settings.env.name, env_config, training_seed(settings.run.seed, index))
        index += stride
        with closing_env(registry.make_env(task)) as env:
            try:
                for _ in range(EPISODES):
                    await env.start()
                    for _ in range(settings.trial.max_turns or env.max_turns):
                        result = await env.play(env.random_response(rng))
                        tally.steps += 1
                        tally.solved += result.is_solved
                        if result.is_done:
                            break
                    tally.episodes += 1
            except EnvironmentFault:
                tally.faults += 1
        await asyncio.sleep(0)


async def _feel(tally: _Tally) -> None:
    """Measure how late this loop wakes up."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK_SECONDS)
        tally.lag = max(tally.lag, time.monotonic() - before - TICK_SECONDS)


async def _watch(tally: _Tally, started: float, pause: float, note: Note) -> None:
    """Take samples."""
    while True:
        await asyncio.sleep(pause)
        counts = shared_counts()
        sample = Sample(
            seconds=round(time.monotonic() - started, 1),
            steps=tally.steps,
            episodes=tally.episodes,
            games=counts.games,
            workers=counts.live,
            recycled=counts.recycled,
            own_mib=round(resident_bytes() / MIB, 1),
            workers_mib=round(counts.resident / MIB, 1),
            lag_ms=round(tally.lag * 1000, 1),
        )
        tally.lag = 0.0
        tally.samples.append(sample)
        note(
            f"{sample.seconds:6.0f} s  {sample.steps} steps  {sample.games} games on {sample.workers} workers of "
            f"{sample.workers_mib:.0f} MiB  own {sample.own_mib:.0f} MiB  lag {sample.lag_ms:.0f} ms"
        )


def _report(
    settings: Settings, options: GamesBenchOptions, tally: _Tally, counts: PoolCounts, seconds: float
) -> GamesReport:
    lags = sorted(sample.lag_ms for sample in tally.samples)
    return GamesReport(
        env=settings.env.name,
        games=options.games,
        steps=tally.steps,
        episodes=tally.episodes,
        solved=tally.solved,
        faults=tally.faults,
        started=counts.started,
        recycled=counts.recycled,
        crashed=counts.crashed,
        hung=counts.hung,
        seconds=round(seconds, 1),
        steps_per_second=round(tally.steps / seconds, 2),
        largest_workers_mib=max((sample.workers_mib for sample in tally.samples), default=0.0),
        median_lag_ms=lags[len(lags) // 2] if lags else 0.0,
        samples=tuple(tally.samples),
    )
