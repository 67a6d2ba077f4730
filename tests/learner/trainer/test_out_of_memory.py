"""A trainer whose memory runs out ends with one line, and asks for no other try."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import torch

from lamer.common.errors import OutOfMemory
from lamer.common.keys import create_keys, load_server_keys, write_trainer_keys
from lamer.common.messages import BatchFailed, Role
from lamer.common.session import Session
from lamer.common.settings import OptimizerSettings, TrainerSettings
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.gateway.gateway import run_gateway
from lamer.learner.memory.advice import TrainerPlan
from lamer.learner.trainer import __main__ as entry
from lamer.learner.trainer.fitting import out_of_memory
from lamer.learner.trainer.model.scorer import PackScorer
from lamer.learner.trainer.trainer import TrainerOptions, run_trainer
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import write_model
from tests.learner.scripted import Actor, make_run
from tests.learner.trainer.test_update import SETTINGS

ON_THE_HOST = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: not enough memory: you tried ..."
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ON_THE_HOST])
async def test_a_backward_pass_without_memory_ends_the_trainer_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    sent: list[object] = []
    send = Session.send

    async def note(self: Session, message: object) -> None:
        sent.append(message)
        await send(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.autograd, "backward", fail)
    monkeypatch.setattr(Session, "send", note)
    trainer = TrainerSettings(device="cpu", parity_responses=0)
    run = make_run(tmp_path, trainer=trainer, optimizer=OptimizerSettings(pack_tokens=8192))
    shutil.rmtree(tmp_path / "model")
    write_model(tmp_path / "model")
    gone = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_gateway(run.plan, run.stop, gone))
        tasks.create_task(run.host())
        async with run.session(Role.ACTOR, capacity=4) as session:
            acting = tasks.create_task(Actor(session).run())
            with pytest.raises(OutOfMemory) as ended:
                await run_trainer(TrainerOptions(await run.url(), run.keys(Role.TRAINER), run.plan.run_dir))
            run.stop.set()
            gone.set()
            await acting
    assert str(ended.value).startswith("the trainer ran out of memory on cpu: ")
    assert "; set trainer.recompute=layers" in str(ended.value)
    assert len(str(ended.value).splitlines()) == 1
    assert not any(isinstance(message, BatchFailed) for message in sent)


def test_the_trainers_process_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(options: object) -> int:
        raise OutOfMemory("the trainer ran out of memory on cuda:0")

    create_keys(tmp_path / "learner")
    (tmp_path / "keys").mkdir()
    write_trainer_keys(tmp_path / "keys", load_server_keys(tmp_path / "learner"))
    monkeypatch.setattr(entry, "run_trainer", fail)
    flags = ["--connect", "tcp://127.0.0.1:1", "--keys", str(tmp_path / "keys"), "--run-dir", str(tmp_path)]
    assert entry.main(flags) == OutOfMemory.trainer_code
    assert capsys.readouterr().err.splitlines()[-1] == "lamer: the trainer ran out of memory on cuda:0"


def test_only_an_allocation_that_failed_is_taken_for_one() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("the size of tensor a must match"))
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))


def test_memory_that_runs_out_while_a_model_is_tried_is_not_the_models_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackScorer, "score", fail)
    with pytest.raises(torch.OutOfMemoryError):
        PolicyUpdater(SETTINGS, write_model(tmp_path / "model"))


def test_what_a_run_that_has_begun_cannot_change_asks_for_a_new_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    trainer = TrainerSettings(recompute="layers")
    plan = TrainerPlan(OptimizerSettings(pack_tokens=3072), trainer, None, False, 3072, True)
    said = str(out_of_memory(MemoryError(), plan, folder, torch.device("cpu")))
    assert said.endswith("start a run with optimizer.kind=adamw_8bit, which a run that has begun can't change")
