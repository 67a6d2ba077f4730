"""Durable checkpoints: everything from which training goes on as if it had not stopped.

    <run>/checkpoints/step-00000020/
        model.safetensors       parameters in the dtype that they are trained in; a critic's under "critic."
        optimizer.safetensors   AdamW's moments and step counts, "<parameter>/<name>" (`learner.trainer.optimizer`)
        state.json              policy version (= the last batch trained, the journal position), settings hash, random
        states manifest.json           SHA-256 of each of the others, written last

A checkpoint is written under a temporary name, synced and renamed. `latest` checks every digest, and passes over a
damaged one with a warning. Loading reads tensors and JSON only, nothing that could run code.
"""

from __future__ import annotations

import base64
import logging
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lamer.common.errors import BadInput, Missing
from lamer.common.folders import file_digest, sweep, whole_folder

log = logging.getLogger("lamer.checkpoint")

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"

Tensors = Mapping[str, torch.Tensor]


class RandomStates(msgspec.Struct, frozen=True):
    """Where the process's generators stand: Python's, numpy's (global MT19937) and torch's (base64), of the CPU and
    of the CUDA device in use, "" without one.
    """

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, tuple[int, ...], int, int, float]
    torch: str
    cuda: str = ""


class TrainingState(msgspec.Struct, frozen=True):
    """What a checkpoint holds beside tensors."""

    policy_version: int
    settings_hash: str
    random: RandomStates


class Manifest(msgspec.Struct, frozen=True):
    """The digests by which a damaged checkpoint is known: file name -> SHA-256."""

    sha256: Mapping[str, str]


JsonT = TypeVar("JsonT", RandomStates, TrainingState, Manifest)


class Damaged(BadInput):
    """A checkpoint that is incomplete or whose bytes are not those that were written."""


def folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of update `step` lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def save(target: Path, parameters: Tensors, optimizer: Tensors, state: TrainingState) -> Path:
    """Write a checkpoint as folder `target`, replacing one of the same name.

    Args:
        target: see `folder`.
        parameters: by name.
        optimizer: by "<parameter>/<name>".
        state: the rest.

    Returns:
        `target`.
    """
    with whole_folder(target, replaces=True) as temporary:
        save_file(_on_cpu(parameters), temporary / MODEL)
        save_file(_on_cpu(optimizer), temporary / OPTIMIZER)
        (temporary / STATE).write_bytes(msgspec.json.encode(state))
        digests = {name: file_digest(temporary / name) for name in (MODEL, OPTIMIZER, STATE)}
        (temporary / MANIFEST).write_bytes(msgspec.json.encode(Manifest(digests)))
    return target


def load(path: Path) -> tuple[Tensors, Tensors, TrainingState]:
    """The parameters, the optimizer's tensors and the rest of checkpoint `path`.

    Raises:
        Missing: no such folder.
        Damaged: it is incomplete, or a file is not what was written.
    """
    verify(path)
    try:
        return load_file(path / MODEL), load_file(path / OPTIMIZER), _read(path / STATE, TrainingState)
    except SafetensorError as error:
        raise Damaged(f"checkpoint {path} can't be read: {error}") from error


def verify(path: Path) -> None:
    """Check a checkpoint against its manifest.

    Raises:
        Missing: no such folder.
        Damaged: it is incomplete, or a file is not what was written.
    """
    if not path.is_dir():
        raise Missing(f"there is no checkpoint {path}")
    manifest = _read(path / MANIFEST, Manifest)
    for name in (MODEL, OPTIMIZER, STATE):
        if not (path / name).is_file():
            raise Damaged(f"checkpoint {path} has no {name}; remove it to go on from the one before")
        if file_digest(path / name) != manifest.sha256.get(name):
            raise Damaged(
                f"{name} of checkpoint {path} is damaged (SHA-256 differs); remove it to go on from the one before"
            )


def checkpoints(run_dir: Path) -> tuple[Path, ...]:
    """The run's checkpoint folders, newest first; temporary ones are not among them."""
    found = [path for path in (run_dir / "checkpoints").glob("step-*") if path.is_dir()]
    return tuple(sorted(found, key=lambda path: path.name, reverse=True))


def latest(run_dir: Path) -> Path | None:
    """The newest checkpoint that is whole, None where the run has none at all. What writers that were killed left
    half done is settled first.

    Raises:
        Damaged: there are checkpoints, and not one of them can be used.
    """
    sweep(run_dir / "checkpoints", ".step-")
    found = checkpoints(run_dir)
    for path in found:
        try:
            verify(path)
        except Damaged as error:
            log.warning("%s", error)
            continue
        return path
    if found:
        raise Damaged(f"none of the {len(found)} checkpoints in {run_dir / 'checkpoints'} can be used")
    return None


def prune(run_dir: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(run_dir)[keep:]:
        shutil.rmtree(path)


def random_states() -> RandomStates:
    """Where the process's generators stand."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return RandomStates(
        python=(version, tuple(internal), gauss),
        numpy=(str(name), tuple(int(key) for key in keys), int(position), int(has_gauss), float(cached)),
        torch=_as_text(torch.get_rng_state()),
        cuda=_as_text(torch.cuda.get_rng_state()) if _uses_cuda() else "",
    )


def set_random_states(states: RandomStates) -> None:
    """Put the process's generators where `states` says."""
    random.setstate(states.python)
    name, keys, position, has_gauss, cached = states.numpy
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_from_text(states.torch))
    if states.cuda and _uses_cuda():
        torch.cuda.set_rng_state(_from_text(states.cuda))


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _as_text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _on_cpu(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _read(path: Path, kind: type[JsonT]) -> JsonT:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise Damaged(f"checkpoint {path.parent} has no {path.name}; remove it to go on from the one before") from error
    except msgspec.DecodeError as error:
        raise Damaged(f"{path.name} of checkpoint {path.parent} can't be read: {error}") from error
