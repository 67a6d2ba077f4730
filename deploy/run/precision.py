"""One precision for engine and trainer: what `auto` stands for, decided once, before anything starts.

    resolved   settings in which trainer.dtype and inference.dtype are named, the same where one of them was auto
    adopted    settings for a run that is resumed, with the precision that the run was begun with
    has_cuda   whether torch would find a GPU here

Where the trainer says bfloat16 and the engine float32, or the other way round, they are about 0.1 nats apart on every
token. A run keeps its precision on whatever machine it is resumed: it is written to its config.yaml.

auto is bfloat16 with `optimizer.kind` adamw_8bit, whose weights have no more bits, and where SGLang serves a run whose
learner has CUDA. It is float32 elsewhere: the embedded engine computes on the CPU, where float32 is the faster one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lamer.common.settings import Settings

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
_CPU_BUILD = "+cpu"


def has_nvidia_gpu() -> bool:
    """Whether there is an NVIDIA GPU here that programs may use. CUDA takes "" and "-1" for none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1") and any(
        Path("/dev").glob("nvidia[0-9]*")
    )


def has_cuda() -> bool:
    """Whether torch would find a GPU here, told without loading it: there is one, and torch is no build for CPUs."""
    try:
        return has_nvidia_gpu() and _CPU_BUILD not in version("torch")
    except PackageNotFoundError:
        return False


def resolved(settings: Settings, *, is_on_cuda: bool) -> Settings:
    """Settings without auto in trainer.dtype and inference.dtype. One that is named decides for the other.

    Args:
        settings: as they were asked for.
        is_on_cuda: whether the learner's machine has CUDA (`has_cuda`); counts only where trainer.device may be CUDA.
    """
    trainer, inference = settings.trainer, settings.inference
    is_auto = trainer.dtype == AUTO
    dtype = trainer.dtype
    if is_auto:
        uses_cuda = is_on_cuda and (trainer.device == AUTO or trainer.device.startswith("cuda"))
        is_short = settings.optimizer.kind == "adamw_8bit" or (uses_cuda and inference.engine == "sglang")
        dtype = BFLOAT16 if is_short else FLOAT32
        if inference.dtype != AUTO and settings.optimizer.kind == "adamw":
            dtype = inference.dtype
    return replace(
        settings,
        trainer=replace(trainer, dtype=dtype, auto_dtype=is_auto or trainer.auto_dtype),
        inference=replace(inference, dtype=dtype if inference.dtype == AUTO else inference.dtype),
    )


def asked(settings: Settings) -> Settings:
    """Settings for a new run from those of another run: a precision that was auto there is auto again, unless it was
    changed since.
    """
    trainer, inference = settings.trainer, settings.inference
    if not trainer.auto_dtype:
        return settings
    is_same = trainer.dtype == inference.dtype
    return replace(
        settings,
        trainer=replace(trainer, dtype=AUTO if is_same else trainer.dtype, auto_dtype=False),
        inference=replace(inference, dtype=AUTO if is_same else inference.dtype),
    )


def adopted(settings: Settings, before: Settings) -> Settings:
    """Settings with the precision of the run `before` where they leave it open, or name the same."""
    trainer, inference = settings.trainer, settings.inference
    is_kept = trainer.dtype in (AUTO, before.trainer.dtype)
    return replace(
        settings,
        trainer=replace(
            trainer,
            dtype=before.trainer.dtype if is_kept else trainer.dtype,
            auto_dtype=before.trainer.auto_dtype and is_kept,
        ),
        inference=replace(inference, dtype=before.inference.dtype if inference.dtype == AUTO else inference.dtype),
    )
