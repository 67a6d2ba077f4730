"""What a trainer's ranks are told, and that they live and die together."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from lamer.deploy.run.trainer_ranks import TrainerRanks

SAYS = """
import json, os, pathlib, sys, time
names = ("CUDA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR")
told = {"flags": sys.argv[2:], **{name: os.environ.get(name) for name in names}}
rank = sys.argv[sys.argv.index("--rank") + 1] if "--rank" in sys.argv else "0"
pathlib.Path(sys.argv[1], f"told-{rank}.tmp").write_text(json.dumps(told))
pathlib.Path(sys.argv[1], f"told-{rank}.tmp").rename(pathlib.Path(sys.argv[1], f"told-{rank}"))
"""
WAITS = "time.sleep(600)"


def command(folder: Path, ending: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", SAYS + ending, str(folder))


def has_told(folder: Path, rank: int) -> bool:
    return (folder / f"told-{rank}").is_file()


async def told(folder: Path, count: int) -> list[dict[str, object]]:
    async with asyncio.timeout(60):
        while not all(map(has_told, [folder] * count, range(count))):  # noqa: ASYNC110 - other processes tell
            await asyncio.sleep(0.02)
    return [json.loads((folder / f"told-{rank}").read_text()) for rank in range(count)]


@pytest.mark.parametrize(("visible", "seen"), [(None, ["0", "1"]), ("4,6", ["4", "6"])])
async def test_each_rank_sees_a_gpu_of_its_own_and_all_meet_at_one_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ranks = await TrainerRanks.start(command(tmp_path, WAITS), 2, tmp_path / "logs")
    first, second = await told(tmp_path, 2)
    assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == seen
    assert first["TORCHINDUCTOR_CACHE_DIR"] != second["TORCHINDUCTOR_CACHE_DIR"]
    one, other = first["flags"], second["flags"]
    assert isinstance(one, list)
    assert isinstance(other, list)
    assert one[:5] == ["--rank", "0", "--ranks", "2", "--meet"]
    assert other[:2] == ["--rank", "1"]
    assert one[5] == other[5]
    assert ranks.is_up
    await ranks.end(0.0, None)
    assert not ranks.is_up


async def test_a_rank_that_is_alone_is_told_nothing_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    ranks = await TrainerRanks.start(command(tmp_path, ""), 1, tmp_path / "logs")
    assert (await ranks.ended()).code == 0
    assert (await told(tmp_path, 1))[0]["flags"] == []


async def test_the_first_rank_that_fails_ends_the_others_and_is_named(tmp_path: Path) -> None:
    ending = "print('lamer: no room'); sys.exit(1) if rank == '1' else time.sleep(600)"
    ranks = await TrainerRanks.start(command(tmp_path, ending), 3, tmp_path / "logs")
    ended = await ranks.ended()
    assert (ended.code, ended.name, ended.log.name) == (1, "trainer's rank 1", "trainer-1.log")
    assert not ranks.is_up


async def test_ranks_that_were_dismissed_end_by_themselves(tmp_path: Path) -> None:
    ranks = await TrainerRanks.start(command(tmp_path, "time.sleep(0.2 * int(rank))"), 2, tmp_path / "logs")
    ended = await ranks.ended()
    assert (ended.code, ended.name) == (0, "trainer's rank 0")
