"""A dry run: everything that can be said of a configuration before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamer.common.settings import Settings
from lamer.deploy.dry.architecture import Architecture, load_architecture
from lamer.deploy.dry.checks import check, longest_sequence, memory_warning
from lamer.deploy.dry.memory import ServerMemory, TrainerMemory, server_memory, trainer_memory
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

TRAINER_GPUS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class TrainerRow:
    """The trainer on so many GPUs. Seconds: of an update. kept: every activation; checkpointed: only layer inputs."""

    gpus: int
    kept: TrainerMemory
    checkpointed: TrainerMemory
    seconds: float
    checkpointed_seconds: float


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
    """What a dry run found. evaluations: in the whole run. warning: "" or what won't fit."""

    settings: Settings
    model: Architecture
    glimpse: Glimpse
    work: Workload
    evaluation: Load
    evaluations: int
    trainer: tuple[TrainerRow, ...]
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
    trials = plan.tasks * plan.rounds
    measured = expected_load(settings, trials, plan.episodes, glimpse.max_turns, glimpse.lengths, habits)
    return DryRun(
        settings=settings,
        model=model,
        glimpse=glimpse,
        work=work,
        evaluation=measured,
        evaluations=_evaluations(settings),
        trainer=tuple(_trainer_row(settings, model, work, gpus, hardware) for gpus in TRAINER_GPUS),
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


def _trainer_row(settings: Settings, model: Architecture, work: Workload, gpus: int, hardware: Hardware) -> TrainerRow:
    tokens = work.expected.tokens
    seconds = [
        training_seconds(operations_per_token(model, settings, is_checkpointed=flag), tokens, gpus, hardware)
        for flag in (False, True)
    ]
    return TrainerRow(
        gpus,
        kept=_memory(settings, model, gpus, settings.optimizer.pack_tokens),
        checkpointed=_memory(settings, model, gpus, settings.optimizer.pack_tokens, is_checkpointed=True),
        seconds=seconds[0],
        checkpointed_seconds=seconds[1],
    )


def _memory(
    settings: Settings, model: Architecture, gpus: int, pack_tokens: int, *, is_checkpointed: bool = False
) -> TrainerMemory:
    from lamer.learner.trainer.model.scorer import HEAD_VALUES

    return trainer_memory(
        model,
        settings,
        gpus,
        pack_tokens,
        HEAD_VALUES,
        is_bfloat16=settings.trainer.dtype != "float32",
        is_checkpointed=is_checkpointed,
    )


def _served(settings: Settings, model: Architecture, load: Load, measured: Load, hardware: Hardware) -> Served:
    plan = settings.inference
    replicas = max(1, plan.servers * plan.data_parallel)
    memory = server_memory(model, plan.tensor_parallel)
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
    alone = _memory(settings, model, 1, settings.optimizer.pack_tokens)
    return memory_warning(settings, alone, _memory(settings, model, 1, longest_sequence(settings)))
