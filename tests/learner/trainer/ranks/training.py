"""Ranks that train a model on made-up batches, each a process of its own."""

from __future__ import annotations

import multiprocessing
import socket
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file

from lamer.common import config
from lamer.common.messages import Metric
from lamer.learner.trainer.ranks.group import Placement, full, meet
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch

SECONDS = 60.0
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["tests.learner.trainer.ranks.training", "lamer.learner.trainer.following"])
"""Processes that start with everything imported and nothing done yet."""


class Task(msgspec.Struct, frozen=True):
    """What ranks do. settings: as JSON. dtype: of everything. seeds: of a made-up batch for each update.

    has_steps: whether optimizer steps are taken; if not, gradients are what is saved.
    start: a checkpoint to go on from. save, snapshot, export: folders that are written at the end.
    parity: for each rank the model folder that version 0 is read from.
    """

    model: str
    settings: str
    dtype: str
    seeds: tuple[int, ...]
    output: str
    has_steps: bool = True
    start: str = ""
    save: str = ""
    snapshot: str = ""
    export: str = ""
    parity: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What rank 0 found. metrics: of every update. parity: of the last batch. drawn: by each rank after all, from the
    generator of its own.
    """

    metrics: tuple[tuple[Metric, ...], ...]
    parity: tuple[Metric, ...] = ()
    drawn: tuple[float, ...] = ()


def train(task: Task, placement: Placement) -> None:
    """Be a rank; rank 0 writes parameters and metrics."""
    torch.set_num_threads(1)
    settings = config.from_json(task.settings)
    settings = replace(settings, trainer=replace(settings.trainer, dtype=task.dtype))
    ranks = meet(placement, torch.device("cpu"))
    updater = PolicyUpdater(settings, Path(task.model), ranks)
    if not task.has_steps:
        for one in updater._optimizers:
            one.step = lambda: None
            one.zero_grad = lambda: None
    torch.manual_seed(ranks.rank)
    if task.start:
        updater.load_checkpoint(Path(task.start))
    results = [
        updater.update(step, play_batch(seed, version=step - 1)).metrics
        for step, seed in enumerate(task.seeds, updater.version + 1)
    ]
    parity = ()
    if task.parity:
        parity = updater.parity(play_batch(0), lambda _: Path(task.parity[ranks.rank]))
    if task.save:
        updater.save_checkpoint(Path(task.save))
    if task.snapshot:
        updater.save_weights(Path(task.snapshot))
    if task.export:
        updater.export(Path(task.export))
    drawn = tuple(float(each["drawn"]) for each in ranks.all_of({"drawn": torch.rand(1)}))
    named = {name: value for one in updater._optimizers for name, value in one.parameters().items()}
    kept = named if task.has_steps else {name: value.grad for name, value in named.items()}
    tensors = {name: full(value.detach()).clone() for name, value in kept.items() if value is not None}
    if ranks.rank == 0:
        save_file(tensors, task.output)
        outcome = Outcome(tuple(results), parity, drawn)
        Path(task.output).with_suffix(".json").write_bytes(msgspec.json.encode(outcome))
    ranks.close()


def run(task: Task, size: int) -> tuple[dict[str, torch.Tensor], Outcome]:
    """What `size` ranks come to, each a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        FRESH.Process(target=train, args=(task, Placement(rank, size, f"127.0.0.1:{port}", SECONDS)))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * size, "the ranks' own output says why"
    return load_file(task.output), msgspec.json.decode(
        Path(task.output).with_suffix(".json").read_bytes(), type=Outcome
    )
