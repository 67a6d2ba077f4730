"""A dry run: everything that can be said of a configuration before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lamer.common.settings import Settings
from lamer.deploy.dry.architecture import load_architecture
from lamer.deploy.dry.checks import check
from lamer.deploy.dry.prompts import Glimpse, look
from lamer.deploy.dry.timing import (
    Hardware,
    RolloutPace,
    operations_per_token,
    rollout_pace,
    rollout_seconds,
    training_seconds,
)
from lamer.deploy.dry.workload import Habits, Load, Workload, expected_load, workload
from lamer.deploy.run.configuration import check_data, check_model_path, read_settings
from lamer.learner.memory.advice import Fit, TrainerPlan, advice, fit, resolved, room_of
from lamer.learner.memory.architecture import Architecture
from lamer.learner.memory.server import ServerMemory, beside_trainer, server_memory
from lamer.learner.memory.trainer import TrainerMemory

GPU_BYTES = 80e9
"""An H100 with 80 GB, before CUDA takes its share."""


@dataclass(frozen=True, slots=True)
class TrainerColumn:
    """The trainer on one card. name: whose column it is. changes: to the settings, none where they are as configured.
    seconds: of an update.
    """

    name: str
    changes: tuple[str, ...]
    plan: TrainerPlan
    memory: TrainerMemory
    room: float
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the card has room for it."""
        return self.memory.total <= self.room


@dataclass(frozen=True, slots=True)
class Served:
    """The configured inference servers. sequence_tokens: of a running sequence on average, seconds: of an update's
    rollout, evaluation_seconds: of one evaluation.
    """

    replicas: int
    gpus: int
    memory: ServerMemory
    pace: RolloutPace
    sequence_tokens: float
    seconds: float
    evaluation_seconds: float


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run found. evaluations: in the whole run. beside: bytes that a server on the trainer's card takes at
    least. warning: "" or what won't fit.
    """

    settings: Settings
    model: Architecture
    glimpse: Glimpse
    work: Workload
    evaluation: Load
    evaluations: int
    trainer: tuple[TrainerColumn, ...]
    beside: float
    served: Served
    habits: Habits
    hardware: Hardware
    warning: str


def load_settings(files: Sequence[Path], overrides: Sequence[str]) -> Settings:
    """The configuration, with its environment's data known to be there, and its model's weights to fit if they are.

    Raises:
        BadInput: it can't be used. Missing: a file, or the environment's data or packages are not there.
    """
    settings = read_settings(files, overrides)
    check_data(settings)
    if settings.model.path and any(Path(settings.model.path).glob("*.safetensors")):
        check_model_path(settings)
    return settings


def dry_run(settings: Settings) -> DryRun:
    """Measure, count and estimate; nothing is downloaded, started or written.

    Raises:
        BadInput: the configuration can't work. Missing: the model's folder or the environment is not there.
    """
    habits, hardware = Habits(), Hardware()
    model = load_architecture(settings.model)
    glimpse = look(settings)
    check(settings, model, glimpse.lengths)
    work = workload(settings, glimpse.max_turns, glimpse.lengths, habits)
    plan = settings.evaluation
    beside = beside_trainer(model, settings.inference.cache_tokens)
    trials = plan.tasks * plan.rounds
    measured = expected_load(settings, trials, plan.episodes, glimpse.max_turns, glimpse.lengths, habits)
    return DryRun(
        settings=settings,
        model=model,
        glimpse=glimpse,
        work=work,
        evaluation=measured,
        evaluations=_evaluations(settings),
        trainer=_columns(settings, model, work, hardware, beside),
        beside=beside,
        served=_served(settings, model, work.expected, measured, hardware),
        habits=habits,
        hardware=hardware,
        warning=_warning(settings, model) if settings.batch.updates else "",
    )


def _evaluations(settings: Settings) -> int:
    """Before training, after every so many updates, and at the end."""
    updates, every = settings.batch.updates, settings.evaluation.every
    between = (updates - 1) // every if every and updates else 0
    return int(settings.evaluation.initial and updates > 0) + between + 1


def _columns(
    settings: Settings, model: Architecture, work: Workload, hardware: Hardware, server: float
) -> tuple[TrainerColumn, ...]:
    """As configured; then, where that is something else, as it fits alone on a card, and as it fits beside a server
    that takes `server` bytes.
    """
    plan = TrainerPlan.of(settings, is_cuda=settings.trainer.device != "cpu")
    alone, beside = room_of(GPU_BYTES), room_of(GPU_BYTES, server)
    now = resolved(plan, model, alone)
    columns = [_column("as configured", (), now, model, alone)]
    for name, room in (("to fit one card", alone), ("beside its server", beside)):
        found = fit(plan, model, room)
        if found is not None and found.plan != columns[-1].plan:
            columns.append(_column(name, _differences(plan, found), found.plan, model, room))
    return tuple(replace(each, seconds=_seconds(settings, model, work, hardware, each.plan)) for each in columns)


def _column(name: str, changes: tuple[str, ...], plan: TrainerPlan, model: Architecture, room: float) -> TrainerColumn:
    return TrainerColumn(name, changes, plan, plan.memory(model), room, 0.0)


def _differences(plan: TrainerPlan, found: Fit) -> tuple[str, ...]:
    """What to set: the changes, and where `auto` computes layers again without being told, that."""
    said = "trainer.recompute=layers"
    if plan.trainer.recompute == "auto" and found.plan.is_recomputed and said not in found.changes:
        return (said, *found.changes)
    return found.changes


def _seconds(settings: Settings, model: Architecture, work: Workload, hardware: Hardware, plan: TrainerPlan) -> float:
    changed = replace(settings, critic=settings.critic if plan.critic is None else plan.critic)
    operations = operations_per_token(model, changed, is_checkpointed=plan.is_recomputed)
    return training_seconds(operations, work.expected.tokens, 1, hardware)


def _served(settings: Settings, model: Architecture, load: Load, measured: Load, hardware: Hardware) -> Served:
    plan = settings.inference
    replicas = max(1, plan.servers * plan.data_parallel)
    memory = server_memory(model, plan.tensor_parallel, GPU_BYTES)
    tokens = load.prompt_tokens / load.responses + load.response_tokens / load.responses / 2
    trials = max(1, settings.actor.processes) * settings.actor.trials
    most = min(plan.max_running, max(1, trials // replicas))
    pace = rollout_pace(model, memory, most, tokens, plan.tensor_parallel, hardware)
    return Served(
        replicas=replicas,
        gpus=plan.tensor_parallel,
        memory=memory,
        pace=pace,
        sequence_tokens=tokens,
        seconds=rollout_seconds(load, pace, replicas, hardware),
        evaluation_seconds=rollout_seconds(measured, pace, replicas, hardware),
    )


def _warning(settings: Settings, model: Architecture) -> str:
    plan = TrainerPlan.of(settings, is_cuda=settings.trainer.device != "cpu")
    return advice(plan, model, room_of(GPU_BYTES), f"a card of {GPU_BYTES / 1e9:.0f} GB")
