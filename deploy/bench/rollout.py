"""The rollout benchmark: lock-step RL, lock-step Meta-RL and asynchronous Meta-RL on one SIMULATED server.

All three schedules play as many episodes an update at most (16 x 24 x 1 and 16 x 8 x 3), through the same trial code
and against the same server process, after its saturated throughput was measured. `lamer bench rollout` runs it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamer.actors.inference import InferenceClient, RoutedPolicy
from lamer.actors.rendering import Renderer
from lamer.actors.resuming import Endings
from lamer.actors.routing import Affinity, Router
from lamer.actors.trial import TrialLimits
from lamer.common.errors import BadInput
from lamer.common.messages import Lease, Sampling
from lamer.common.records import MemoryMode, Purpose, Task, make_trial_id, training_seed
from lamer.deploy.bench.asynchronous import MIN_UPDATES, AsyncOptions, measure_asynchronous
from lamer.deploy.bench.lockstep import play_batch
from lamer.deploy.bench.pace import Pace
from lamer.deploy.bench.report import ProcessLoad, RolloutReport, ScheduleFigures, TokenBalance
from lamer.deploy.bench.scripted import FACTORY, NAME, ScriptedConfig, write_model_folder
from lamer.deploy.bench.simulated import SimulatedServer, Throughput, measure_saturation
from lamer.deploy.bench.wire import PacedInfo

Note = Callable[[str], None]

GROUPS = 16
LOCK_STEP_UPDATES = 5
MAX_TOKENS = 1024
SAMPLING = Sampling(1.0, 1.0, 0, max_response_tokens=MAX_TOKENS, max_reflection_tokens=MAX_TOKENS)
LIMITS = TrialLimits(max_turns=0, max_prompt_tokens=2048)


@dataclass(frozen=True, slots=True)
class RolloutBenchOptions:
    """How the benchmark runs.

    scale: size of batch and server, 1.0 for 16 groups and 512 running sequences. time_scale: simulated seconds per
    second. max_staleness: one asynchronous measurement each. actors: actor processes. output: JSON file, None for none.
    """

    scale: float = 1.0
    time_scale: float = 8.0
    max_staleness: tuple[int, ...] = (4,)
    seed: int = 0
    actors: int = 2
    output: Path | None = None
    updates: int = MIN_UPDATES

    def __post_init__(self) -> None:
        if not 0.0 < self.scale <= 1.0:
            raise BadInput(f"the scale is above 0 and at most 1, got {self.scale}")
        if self.time_scale <= 0.0:
            raise BadInput(f"the time scale is above 0, got {self.time_scale}")
        if not self.max_staleness or min(self.max_staleness) < 0:
            raise BadInput(f"at least one max_staleness, none below 0, got {self.max_staleness}")
        if self.updates < 1:
            raise BadInput(f"at least one update is measured, got {self.updates}")
        if self.actors < 1:
            raise BadInput(f"at least one actor process, got {self.actors}")

    @property
    def groups(self) -> int:
        """Groups in a batch."""
        return max(1, round(GROUPS * self.scale))

    @property
    def max_running(self) -> int:
        """Sequences that the server runs at once."""
        return max(1, round(Pace().max_running * self.scale))


@dataclass(frozen=True, slots=True)
class Schedule:
    """What one update of a schedule plays."""

    name: str
    group_size: int
    episodes: int
    memory: MemoryMode


RL = Schedule("lock-step RL", group_size=24, episodes=1, memory=MemoryMode.NONE)
METARL = Schedule("lock-step Meta-RL", group_size=8, episodes=3, memory=MemoryMode.BOTH)


def make_leases(schedule: Schedule, groups: int, update: int, seed: int) -> tuple[Lease, ...]:
    """The trials of one update: `groups` tasks, each played by `schedule.group_size` trials."""
    leases = []
    for group_id in range(update * groups, (update + 1) * groups):
        task = Task(NAME, "{}", training_seed(seed, group_id))
        for slot in range(schedule.group_size):
            lease = Lease(
                trial_id=make_trial_id("bench", Purpose.TRAIN, group_id, slot),
                group_id=group_id,
                slot=slot,
                purpose=Purpose.TRAIN,
                task=task,
                episodes=schedule.episodes,
                memory=schedule.memory,
                sampling=SAMPLING,
                seconds=3600.0,
            )
            leases.append(lease)
    return tuple(leases)


@dataclass(frozen=True, slots=True)
class _Reading:
    info: PacedInfo
    cpu: float
    wall: float

    @classmethod
    async def take(cls, server: SimulatedServer) -> _Reading:
        return cls(await server.read(), time.process_time(), time.monotonic())


async def measure_lock_step(
    server: SimulatedServer, schedule: Schedule, options: RolloutBenchOptions, model_path: Path, saturation: float
) -> ScheduleFigures:
    """Play `LOCK_STEP_UPDATES` batches in lock step.

    Raises:
        RunFailed: a trial failed.
    """
    renderer = Renderer.load(model_path, use_chat_template=False)
    async with server.inference() as inference:
        policy = _one_server_policy(inference, server, renderer)
        before = await _Reading.take(server)
        trained = 0
        for update in range(LOCK_STEP_UPDATES):
            leases = make_leases(schedule, options.groups, update, options.seed)
            envs = [FACTORY.make(ScriptedConfig(), lease.task.seed) for lease in leases]
            trials = await play_batch(leases, envs, policy, renderer, LIMITS)
            trained += sum(trial.response_tokens for trial in trials)
        after = await _Reading.take(server)
    run, wall = Throughput.between(before.info, after.info), after.wall - before.wall
    return ScheduleFigures(
        name=schedule.name,
        max_staleness=None,
        updates=LOCK_STEP_UPDATES,
        trajectories_per_update=options.groups * schedule.group_size * schedule.episodes,
        seconds_per_update=run.seconds / LOCK_STEP_UPDATES,
        tokens_per_second=run.tokens_per_second,
        saturation_share=run.tokens_per_second / saturation,
        busy_share=run.busy_seconds / run.seconds,
        tokens=TokenBalance(run.tokens, trained, dropped=0),
        loads=(
            ProcessLoad("server", run.cpu_seconds / wall),
            ProcessLoad("client", (after.cpu - before.cpu) / wall),
        ),
    )


def _one_server_policy(inference: InferenceClient, server: SimulatedServer, renderer: Renderer) -> RoutedPolicy:
    router = Router()
    router.replace((server.info,))
    return RoutedPolicy(inference, router, Endings(renderer.decode_all, renderer.end_ids), Affinity())


async def _measure_ours(
    server: SimulatedServer, options: RolloutBenchOptions, model_path: Path, folder: Path, saturation: float, note: Note
) -> Sequence[ScheduleFigures]:
    figures = []
    for max_staleness in options.max_staleness:
        run_dir = folder / f"staleness-{max_staleness}"
        run_dir.mkdir()
        async_options = AsyncOptions(
            groups=options.groups,
            group_size=METARL.group_size,
            episodes=METARL.episodes,
            max_staleness=max_staleness,
            actors=options.actors,
            seed=options.seed,
            model_path=model_path,
            folder=run_dir,
            min_updates=options.updates,
        )
        figures.append(await measure_asynchronous(server, async_options, saturation))
        note(_summary(figures[-1]))
    return figures


def _summary(figures: ScheduleFigures) -> str:
    return (
        f"{figures.label}: {figures.seconds_per_update:.1f} simulated seconds an update, over {figures.updates} updates"
    )


async def _run(options: RolloutBenchOptions, note: Note) -> RolloutReport:
    with tempfile.TemporaryDirectory(prefix="lamer-bench-") as name:
        folder = Path(name)
        model_path = folder / "model"
        write_model_folder(model_path)
        async with SimulatedServer.run(model_path, options.seed, options.time_scale, options.max_running) as server:
            saturation = (await measure_saturation(server)).tokens_per_second
            note(f"the simulated server's full speed: {saturation:,.0f} tokens a simulated second")
            rl = await measure_lock_step(server, RL, options, model_path, saturation)
            note(_summary(rl))
            metarl = await measure_lock_step(server, METARL, options, model_path, saturation)
            note(_summary(metarl))
            ours = await _measure_ours(server, options, model_path, folder, saturation, note)
    return RolloutReport.of(options.scale, options.time_scale, options.seed, saturation, rl, metarl, tuple(ours))


def run_rollout_bench(options: RolloutBenchOptions, note: Note) -> RolloutReport:
    """Run the benchmark and write its report to `options.output`. note: is told what was measured, a line at a time.

    Raises:
        RunFailed: a trial or a process failed. Missing: a process does not answer.
    """
    report = asyncio.run(_run(options, note))
    if options.output is not None:
        report.write(options.output)
    return report
