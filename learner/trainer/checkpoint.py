"""Durable checkpoints: everything from which training goes on as if it had not stopped.

    <run>/checkpoints/step-00000020/
        model.safetensors       parameters in the dtype that they are trained in; a critic's under "critic."
        optimizer.safetensors   AdamW's moments and step counts, "<parameter>/<name>" (`learner.trainer.optimizer`)
        state.json              policy version (= the last batch trained, the journal position), settings hash, random
                                states
        manifest.json           SHA-256 of each of the others, written last

Several ranks write shard-00001-model-00001-of-00002.safetensors and so on instead of the first two, each the rows that
it holds (`learner.trainer.ranks.chunks`). Any number of ranks reads either, tensor by tensor.

A checkpoint is written under a temporary name, synced and renamed. `latest` checks every digest, and passes over a
damaged one with a warning; a file that this process has found whole is read again only if it has changed. Loading reads
tensors and JSON only, nothing that could run code.
"""

from __future__ import annotations

import base64
import logging
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lamer.common.errors import BadInput, Missing
from lamer.common.folders import file_digest, sweep, whole_folder
from lamer.learner.trainer.ranks.chunks import Chunk, StoredTensors, write_chunks
from lamer.learner.trainer.ranks.group import ALONE, Ranks

log = logging.getLogger("lamer.checkpoint")

_KNOWN, _UNREAD = b"known", b"unread"
_verified: dict[Path, tuple[str, int, int, int, int]] = {}
"""Files that this process has read and found whole: digest and signature."""

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"

Chunks = Mapping[str, Chunk]

_SETTLED_NANOSECONDS = 2_000_000_000
"""Since a file's last change; what is younger may change again without another time stamp."""


class RandomStates(msgspec.Struct, frozen=True):
    """Where the process's generators stand: Python's, numpy's (global MT19937) and torch's (base64), of the CPU and
    of the CUDA device in use, "" without one.
    """

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, tuple[int, ...], int, int, float]
    torch: str
    cuda: str = ""


class TrainingState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a checkpoint holds beside tensors. random: of rank 0. others: of ranks 1, 2, ..."""

    policy_version: int
    settings_hash: str
    random: RandomStates
    others: tuple[RandomStates, ...] = ()

    def random_of(self, ranks: Ranks) -> RandomStates:
        """Those of this rank, or of rank 0 where there were more ranks, or fewer."""
        return (self.random, *self.others)[ranks.rank if ranks.size == len(self.others) + 1 else 0]


class Manifest(msgspec.Struct, frozen=True):
    """The digests by which a damaged checkpoint is known: file name -> SHA-256."""

    sha256: Mapping[str, str]


JsonT = TypeVar("JsonT", RandomStates, TrainingState, Manifest)


class Damaged(BadInput):
    """A checkpoint that is incomplete or whose bytes are not those that were written."""


def folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of update `step` lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def save(target: Path, parameters: Chunks, optimizer: Chunks, state: TrainingState, ranks: Ranks = ALONE) -> Path:
    """Write a checkpoint as folder `target`, replacing one of the same name.

    Args:
        target: see `folder`.
        parameters: by name, what this rank holds of them.
        optimizer: by "<parameter>/<name>", likewise.
        state: the rest. This rank's, whose random states are kept; version and hash are the same for all.
        ranks: that call this alike, and see one file system.

    Returns:
        `target`, which is there when this returns.
    """
    if ranks.rank:
        temporary = Path(ranks.heard(None).decode())
        _gathered(ranks, _write_own(temporary, parameters, optimizer, ranks), state.random)
        ranks.heard(None)
        return target
    with whole_folder(target, replaces=True) as temporary:
        ranks.heard(str(temporary.absolute()).encode())
        digests, others = _gathered(ranks, _write_own(temporary, parameters, optimizer, ranks), state.random)
        whole = msgspec.structs.replace(state, others=others)
        (temporary / STATE).write_bytes(msgspec.json.encode(whole))
        digests[STATE] = file_digest(temporary / STATE)
        (temporary / MANIFEST).write_bytes(msgspec.json.encode(Manifest(digests)))
    ranks.heard(b"written")
    return target


def _write_own(temporary: Path, parameters: Chunks, optimizer: Chunks, ranks: Ranks) -> dict[str, str]:
    """Write this rank's files of tensors; their digests by name."""
    if ranks.size == 1:
        names: tuple[str, ...] = (MODEL, OPTIMIZER)
        for name, chunks in zip(names, (parameters, optimizer), strict=True):
            save_file({key: chunk.data.cpu().contiguous() for key, chunk in chunks.items()}, temporary / name)
    else:
        names = write_chunks(temporary, {**parameters, **optimizer}, ranks.rank)
    return {name: file_digest(temporary / name) for name in names}


def _gathered(
    ranks: Ranks, digests: Mapping[str, str], states: RandomStates
) -> tuple[dict[str, str], tuple[RandomStates, ...]]:
    """The digests of all ranks' files, and the random states of ranks 1, 2, ..."""
    own = {"digests": _as_bytes(msgspec.json.encode(digests)), "random": _as_bytes(msgspec.json.encode(states))}
    found = ranks.all_of(own)
    every = [msgspec.json.decode(each["digests"].numpy().tobytes(), type=dict[str, str]) for each in found]
    random_states = [msgspec.json.decode(each["random"].numpy().tobytes(), type=RandomStates) for each in found]
    return {name: digest for each in every for name, digest in each.items()}, tuple(random_states[1:])


@contextmanager
def opened(path: Path, ranks: Ranks = ALONE) -> Iterator[tuple[StoredTensors, TrainingState]]:
    """The tensors of checkpoint `path`, parameters and what the optimizer keeps, to be read, and the rest.

    Raises:
        Missing: no such folder.
        Damaged: it is incomplete, or a file is not what was written.
    """
    verify(path, ranks)
    try:
        stored = StoredTensors(path)
    except SafetensorError as error:
        raise Damaged(f"checkpoint {path} can't be read: {error}") from error
    with stored:
        yield stored, read_state(path)


def read_state(path: Path) -> TrainingState:
    """What checkpoint `path` holds beside tensors.

    Raises:
        Damaged: it can't be read.
    """
    return _read(path / STATE, TrainingState)


def verify(path: Path, ranks: Ranks = ALONE) -> None:
    """Check a checkpoint against its manifest. Each of several ranks reads a part of the files, or none if rank 0 has
    found them whole before; all come to the same.

    Raises:
        Missing: no such folder.
        Damaged: it is incomplete, or a file is not what was written.
    """
    said = None if ranks.rank else _KNOWN if _is_known(path) else _UNREAD
    is_known = ranks.heard(said) == _KNOWN
    own: Missing | Damaged | None = None
    try:
        if not is_known:
            _check_files(path, ranks)
    except (Missing, Damaged) as error:
        own = error
    problems = ranks.all_of({"problem": _as_bytes(str(own or "").encode())})
    if own is not None:
        raise own
    for each in problems:
        if len(each["problem"]):
            raise Damaged(each["problem"].numpy().tobytes().decode())


def _is_known(path: Path) -> bool:
    """Whether this process has read every file of a checkpoint as it is."""
    try:
        digests = _digests(path)
        return all(_verified.get(path / name) == (digest, *_signature(path / name)) for name, digest in digests.items())
    except (OSError, Missing, Damaged):
        return False


def _check_files(path: Path, ranks: Ranks) -> None:
    """Read this rank's part of a checkpoint's files."""
    digests = _digests(path)
    for name in sorted(digests)[ranks.rank :: ranks.size]:
        file, digest = path / name, digests[name]
        if not file.is_file():
            raise Damaged(f"checkpoint {path} has no {name}; remove it to go on from the one before")
        signature = _signature(file)
        if file_digest(file) != digest:
            raise Damaged(
                f"{name} of checkpoint {path} is damaged (SHA-256 differs); remove it to go on from the one before"
            )
        if time.time_ns() - signature[1] > _SETTLED_NANOSECONDS:
            _verified[file] = (digest, *signature)


def _digests(path: Path) -> Mapping[str, str]:
    """What a checkpoint's manifest lists: all of its files.

    Raises:
        Missing, Damaged: see `verify`.
    """
    if not path.is_dir():
        raise Missing(f"there is no checkpoint {path}")
    digests = _read(path / MANIFEST, Manifest).sha256
    there = {file.name for file in path.glob("*.safetensors")}
    strange = sorted((there | {STATE}) - digests.keys()) + [name for name in digests if Path(name).name != name]
    if strange:
        raise Damaged(
            f"{MANIFEST} of checkpoint {path} does not agree with it on {strange[0]}; remove it to go on from the one "
            "before"
        )
    return digests


def _signature(file: Path) -> tuple[int, int, int, int]:
    """Size, time of the last change, of the last change of anything, and inode."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


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


def random_states(device: torch.device) -> RandomStates:
    """Where the process's generators stand. device: that the model is on."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return RandomStates(
        python=(version, tuple(internal), gauss),
        numpy=(str(name), tuple(int(key) for key in keys), int(position), int(has_gauss), float(cached)),
        torch=_as_text(torch.get_rng_state()),
        cuda=_as_text(torch.cuda.get_rng_state(device)) if device.type == "cuda" else "",
    )


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Put the process's generators where `states` says."""
    random.setstate(states.python)
    name, keys, position, has_gauss, cached = states.numpy
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_from_text(states.torch))
    if states.cuda and device.type == "cuda":
        torch.cuda.set_rng_state(_from_text(states.cuda), device)


def _as_text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _as_bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _read(path: Path, kind: type[JsonT]) -> JsonT:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise Damaged(f"checkpoint {path.parent} has no {path.name}; remove it to go on from the one before") from error
    except msgspec.DecodeError as error:
        raise Damaged(f"{path.name} of checkpoint {path.parent} can't be read: {error}") from error
