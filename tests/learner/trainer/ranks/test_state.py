"""What several ranks save, publish and compare is what one process does, and any number of them goes on from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torchao.optim.subclass_8bit import OptimState8bit

from lamer.common import config
from lamer.common.settings import Settings
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.ranks import chunks
from lamer.learner.trainer.ranks.chunks import Chunk, StoredTensors, write_chunks
from lamer.learner.trainer.ranks.group import Ranks, Tensors
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch, write_model
from tests.learner.trainer.ranks.test_ranks import CASES, furthest, task
from tests.learner.trainer.ranks.training import Task, run
from tests.learner.trainer.test_architectures import write
from tests.learner.trainer.test_optimizer import TRAINED

PPO = CASES["ppo, critic of its own"]
QUANTISED = {"hidden_size": 64, "num_attention_heads": 16, "intermediate_size": 135, "vocab_size": 129}
"""Of 2 ranks both, the first, or none have moments in blocks of 256."""


def going_on(one: Task, seeds: tuple[int, ...], start: Path) -> Task:
    return msgspec.structs.replace(one, seeds=seeds, start=str(start))


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def values(folder: Path) -> dict[str, torch.Tensor]:
    """The values of an optimizer's state, as a checkpoint holds it."""
    with StoredTensors(folder) as stored:
        found = {
            name: torch.zeros(shape)
            for name, shape in stored.shapes.items()
            if "/exp_avg" in name and not name.endswith((".codes", ".scale"))
        }
        for name, value in found.items():
            stored.copy_to(name, Chunk(value, 0, tuple(value.shape)))
        for name in [name for name in stored.shapes if name.endswith(".codes")]:
            key = name.removesuffix(".codes")
            whole = found.setdefault(key, torch.zeros(stored.shapes[name]))
            for start, codes in stored.rows(name, 0, len(whole)):
                width = whole[0].numel()
                first = start * width // 256
                parts = stored.rows(f"{key}.scale", first, first + codes.numel() // 256)
                scale = torch.cat([each for _, each in parts])
                table = OptimState8bit.zeros((256,), signed=key.endswith("exp_avg")).qmap
                whole[start : start + len(codes)] = (table[codes.int()].view(-1, 256) * scale[:, None]).view(
                    codes.shape
                )
    return found


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_two_ranks_then_one_then_three_come_to_where_one_process_comes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    straight, _ = run(task(tmp_path, "straight", PPO, 4), 1)
    run(task(tmp_path, "two", PPO, 2, save=str(first)), 2)
    run(going_on(task(tmp_path, "one", PPO, 4, save=str(second)), (2,), first), 1)
    resumed, _ = run(going_on(task(tmp_path, "three", PPO, 4), (3,), second), 3)
    assert furthest(straight, resumed) < 1e-7
    assert {path.name for path in second.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
    }, "one rank writes what it always wrote"  # fmt: skip
    target = {"model.embed_tokens.weight": torch.zeros(64, 32, dtype=torch.float64)}
    load(target, storage_reader=HuggingFaceStorageReader(str(first)), no_dist=True)
    assert target["model.embed_tokens.weight"].count_nonzero() == 64 * 32, "the library reads it by itself"

    shards = sorted(first.glob("shard-00002-*"))
    shards[0].write_bytes(shards[0].read_bytes()[:-1] + b"?")
    with pytest.raises(checkpoint.Damaged, match=f"{shards[0].name} of checkpoint .*first is damaged"):
        checkpoint.verify(first)
    shards[0].unlink()
    with pytest.raises(checkpoint.Damaged, match=f"first has no {shards[0].name}"):
        checkpoint.verify(first)


def test_two_ranks_that_go_on_as_two_give_the_same_bits_and_draw_the_same_numbers(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    straight, once = run(task(tmp_path, "straight", CASES["gigpo"], 3, "float32"), 2)
    first = task(tmp_path, "first", CASES["gigpo"], 1, "float32", save=str(saved))
    _, unseen = run(msgspec.structs.replace(first, parity=(first.model, str(tmp_path / "nowhere"))), 2)
    resumed, again = run(going_on(task(tmp_path, "resumed", CASES["gigpo"], 3, "float32"), (1, 2), saved), 2)
    assert_equal(straight, resumed)
    assert once.drawn == again.drawn
    assert len(set(once.drawn)) == 2, "each rank has a generator of its own"
    assert unseen.parity == (), "one rank has no folder to compare with"


def test_moments_of_8_bits_are_the_same_for_any_number_of_ranks(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **QUANTISED)
    ppo = CASES["ppo, critic on the policy"]
    settings = replace(TRAINED, batch=replace(TRAINED.batch, updates=10), advantage=ppo.advantage, critic=ppo.critic)
    of_two, of_one, of_three = (tmp_path / name for name in ("of two", "of one", "of three"))
    run(task(tmp_path, "first", settings, 1, "auto", save=str(of_two)), 2)
    straight, figures = run(task(tmp_path, "straight", settings, 2, "auto"), 2)
    resumed, _ = run(going_on(task(tmp_path, "resumed", settings, 2, "auto"), (1,), of_two), 2)
    assert_equal(straight, resumed)

    alone = PolicyUpdater(settings, model)
    start = {name: value.detach().clone() for name, value in alone._parameters().items()}
    alone.load_checkpoint(of_two)
    alone.save_checkpoint(of_one)
    run(going_on(task(tmp_path, "last", settings, 0, "auto", save=str(of_three)), (), of_one), 3)
    two, one, three = map(values, (of_two, of_one, of_three))
    codes = {name.removesuffix(".codes") for name in load_file(of_one / "optimizer.safetensors") if "codes" in name}
    for name, value in one.items():
        if name.startswith(("model.layers.0.self_attn", "model.norm")):  # blocks begin where shards do, or are none
            assert torch.equal(value, two[name]), name
        else:
            assert float((value - two[name]).abs().max()) < 0.02 * float(value.abs().max()), name
        assert float((value - three[name]).abs().max()) < 0.02 * float(value.abs().max()), name
    assert {"model.embed_tokens.weight/exp_avg", "model.layers.0.self_attn.q_proj.weight/exp_avg"} <= codes | set(one)
    assert "model.embed_tokens.weight/exp_avg" in dict.fromkeys(StoredTensors(of_two).shapes), "begins within a block"

    alone = PolicyUpdater(settings, model)
    results = [alone.update(step, play_batch(step - 1, version=step - 1)) for step in (1, 2)]
    norms = [
        {each.name: each.value for each in found}["loss/grad_norm"]
        for found in (figures.metrics[0], results[0].metrics)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    moves = [
        torch.cat([(found[name].detach().float() - value.float()).flatten() for name, value in start.items()])
        for found in (alone._parameters(), straight)
    ]
    assert float(torch.cosine_similarity(*moves, dim=0)) > 0.9


@pytest.mark.parametrize("name", ["qwen3", "qwen3 moe"])
def test_two_ranks_publish_export_and_compare_as_one_process_does(tmp_path: Path, name: str) -> None:
    model = write(tmp_path / "model", name)
    one = task(
        tmp_path, "two", CASES["gigpo"], 0, "float32",
        start=str(tmp_path / "saved"), snapshot=str(tmp_path / "v1 of 2"), export=str(tmp_path / "export of 2"),
        parity=(str(model), str(model)),
    )  # fmt: skip
    settings: Settings = config.from_json(one.settings)
    alone = PolicyUpdater(settings, model)
    alone.update(1, play_batch(1))
    alone.save_checkpoint(tmp_path / "saved")
    alone.save_weights(tmp_path / "v1")
    alone.export(tmp_path / "export")
    expected = alone.parity(play_batch(0), lambda _: model)
    _, outcome = run(one, 2)
    assert files(tmp_path / "v1 of 2") == files(tmp_path / "v1")
    assert files(tmp_path / "export of 2") == files(tmp_path / "export")
    assert [metric.name for metric in outcome.parity] == [metric.name for metric in expected]
    assert [metric.value for metric in outcome.parity] == pytest.approx([metric.value for metric in expected], rel=1e-6)


def test_chunks_are_read_by_any_rows_from_files_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "FILE_BYTES", 64)
    matrix, count = torch.arange(35.0).view(7, 5), torch.tensor(3.0)
    for rank, (start, stop) in enumerate(((0, 4), (4, 7), (7, 7))):
        rows = Chunk(matrix[start:stop], start, (7, 5))
        names = write_chunks(tmp_path, {"a": rows, "b": rows, "count": Chunk(count, 0, ())}, rank)
        assert len(names) == (3, 2, 0)[rank]
    with StoredTensors(tmp_path) as stored:
        assert stored.shapes == {"a": (7, 5), "b": (7, 5), "count": ()}
        assert float(stored.whole("count")) == 3.0
        for start, stop in ((0, 7), (2, 5), (4, 4), (6, 7)):
            found = torch.zeros(stop - start, 5)
            stored.copy_to("b", Chunk(found, start, (7, 5)))
            assert torch.equal(found, matrix[start:stop])
            assert stored.covers("b", start, stop)
        assert not stored.covers("b", 0, 8)
        assert not list(stored.rows("c", 0, 7))


class Second(Ranks):
    """Rank 1 of 2, and what rank 0 says."""

    rank, size = 1, 2

    def __init__(self, said: bytes, problem: str = "") -> None:
        self._said = said
        self._problem = torch.frombuffer(bytearray(problem.encode() or b"?"), dtype=torch.uint8)[: len(problem)]

    def heard(self, said: bytes | None) -> bytes:
        return self._said

    def all_of(self, values: Tensors) -> tuple[Tensors, ...]:
        return {"problem": self._problem}, values


def test_what_another_rank_finds_damaged_is_damaged(tmp_path: Path) -> None:
    folder = PolicyUpdater(CASES["gigpo"], write_model(tmp_path / "model")).save_checkpoint(tmp_path / "saved")
    checkpoint.verify(folder, Second(b"unread"))
    with pytest.raises(checkpoint.Damaged, match="a shard is cut"):
        checkpoint.verify(folder, Second(b"unread", "a shard is cut"))


def test_what_has_been_found_whole_is_read_again_only_once_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PolicyUpdater(CASES["gigpo"], write_model(tmp_path / "model")).save_checkpoint(tmp_path / "saved")
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    read: list[str] = []
    digest = checkpoint.file_digest
    monkeypatch.setattr(checkpoint, "file_digest", lambda path: read.append(path.name) or digest(path))
    for _ in range(2):
        checkpoint.verify(folder)
        assert sorted(read) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    state = folder / "state.json"
    state.write_bytes(state.read_bytes().replace(b"0", b"1", 1))
    os.utime(state, (1e9, 1e9))
    with pytest.raises(checkpoint.Damaged, match="is damaged"):
        checkpoint.verify(folder)
