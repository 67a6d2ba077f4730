"""Whether this trainer fits its device: when layers are computed again, and what it says where memory ran out.

The formulas are those of `learner.memory`; here they meet a model's folder, a card, and torch's errors.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lamer.common.errors import OutOfMemory
from lamer.common.settings import InferenceSettings, TrainerSettings
from lamer.learner.fitness.loading import empty_model, read_config
from lamer.learner.memory.advice import TrainerPlan, relief, resolved, room_of
from lamer.learner.memory.architecture import Architecture, architecture_of
from lamer.learner.memory.server import beside_trainer


def sizes_of(folder: Path) -> Architecture:
    """The sizes of the model in a folder, without its weights.

    Raises:
        Missing, BadInput: as `learner.fitness.loading.read_config`.
    """
    config = read_config(folder)
    module = empty_model(folder, config)
    names = dict(module.named_parameters())
    return architecture_of(
        config,
        folder.name,
        str(folder),
        sum(each.numel() for each in names.values()),
        is_tied=bool(config.tie_word_embeddings),
        has_head_norms=any("q_norm" in name for name in names),
    )


def server_beside(model: Architecture, inference: InferenceSettings, cards: int) -> float:
    """Bytes that a server on the trainer's card takes at least; 0 where the run starts none that needs a card (the
    embedded engine computes on the CPU) or has more cards.
    """
    is_beside = inference.servers > 0 and inference.engine == "sglang" and cards == 1
    return beside_trainer(model, inference.cache_tokens) if is_beside else 0.0


def fitted(plan: TrainerPlan, inference: InferenceSettings, folder: Path, device: torch.device) -> TrainerSettings:
    """The trainer's settings with `recompute: auto` decided by the memory of its card; on a CPU as they are.

    Raises:
        Missing, BadInput: the folder can't be read.
    """
    if plan.trainer.recompute != "auto" or device.type != "cuda":
        return plan.trainer
    model = sizes_of(folder)
    total = torch.cuda.mem_get_info(device)[1]
    room = room_of(total, server_beside(model, inference, torch.cuda.device_count()))
    return resolved(plan, model, room).trainer


def out_of_memory(error: BaseException, plan: TrainerPlan, folder: Path, device: torch.device) -> OutOfMemory:
    """The one line that the run ends with: where it happened, and what to change."""
    model = sizes_of(folder)
    kind = "GPU" if device.type == "cuda" else "machine"
    said = f"the trainer ran out of memory on {device}: {' '.join(str(error).split())[:160]}"
    changes = relief(plan, model)
    if not changes:
        return OutOfMemory(f"{said}; take a {kind} with more memory or a smaller model")
    changed = " ".join(changes)
    if all(change.startswith("trainer.") for change in changes):
        return OutOfMemory(f"{said}; set {changed} and go on with --resume")
    return OutOfMemory(f"{said}; start a run with {changed}, which a run that has begun can't change")
