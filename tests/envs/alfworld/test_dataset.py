"""Games solved ahead of play: no solution, no answer in time, a crash and broken files are different results."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.envs.alfworld.dataset import compile_dataset
from lamer.envs.alfworld.games import UNSOLVABLE_FILE, find_games
from lamer.envs.alfworld.houses import House
from lamer.envs.workers.pool import PoolLimits, WorkerPool
from lamer.envs.workers.worker import Crashed
from tests.envs.alfworld import stubborn
from tests.envs.alfworld.houses import needs_engine, write_game

TASK = "train/pick_and_place_simple-Mug-None-Shelf-1"


@contextlib.contextmanager
def one_worker() -> Iterator[WorkerPool]:
    """A pool in which every game waits behind every other."""
    pool = WorkerPool(stubborn.OPTIONS, PoolLimits(workers=1))
    try:
        yield pool
    finally:
        pool.close()


def asked(dataset: Path) -> Counter[str]:
    return Counter(name.rpartition("/")[2] for name in (dataset / "asked").read_text().split())


@needs_engine
def test_only_games_without_a_solution_are_remembered_whatever_their_neighbours_do(tmp_path: Path) -> None:
    trials = ("a1", "b_slow", "b_unsolvable", "c1", "d_crash", "d_once", "e_unreadable", "e_unsolvable", "f1")
    for trial in trials:
        write_game(tmp_path, f"{TASK}/{trial}")
    (tmp_path / UNSOLVABLE_FILE).write_text(f"{TASK}/f1\n")  # as a time-out was once written down
    with one_worker() as pool:
        found = compile_dataset(tmp_path, pool=lambda: pool)
    unsolvable = (f"{TASK}/b_unsolvable", f"{TASK}/e_unsolvable")
    assert (found.games, found.unsolvable) == (9, unsolvable)
    assert (tmp_path / UNSOLVABLE_FILE).read_text().split() == list(unsolvable)
    slow, crash, unreadable = found.unanswered
    assert (slow.name, crash.name, unreadable.name) == tuple(
        f"{TASK}/{x}" for x in ("b_slow", "d_crash", "e_unreadable")
    )
    assert "did not answer within 5 s and was killed" in slow.reason
    assert "died (exit code 7)" in crash.reason
    assert unreadable.reason == "ValueError: no problem at all"
    assert asked(tmp_path) == dict.fromkeys(trials, 1) | {"d_crash": 3, "d_once": 2}, (
        "each once, crashes at most thrice"
    )
    played = {game.name.rpartition("/")[2] for game in find_games(str(tmp_path), "train", ("pick",))}
    assert played == {*trials} - {"b_unsolvable", "e_unsolvable"}, "games without an answer stay in play"


def test_a_game_that_waits_behind_a_killed_one_starts_over_elsewhere(tmp_path: Path) -> None:
    for trial in ("crash", "one", "other"):
        write_game(tmp_path, f"{TASK}/{trial}")

    async def play() -> list[object]:
        with one_worker() as pool:
            crash, one, other = (House(game, lambda: pool) for game in games)
            scenes = await asyncio.gather(
                crash.reset_async(), one.reset_async(), asyncio.to_thread(other.reset), return_exceptions=True
            )
            return list(scenes)

    games = sorted(find_games(str(tmp_path), "train", ("pick",)), key=lambda game: game.name)
    lost, *kept = asyncio.run(play())
    assert isinstance(lost, Crashed)
    assert [getattr(scene, "text", scene) for scene in kept] == ["You see nothing."] * 2


def test_without_an_engine_nothing_is_asked_and_nothing_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_game(tmp_path, f"{TASK}/one")
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(Missing, match="its engine is not installed"):
        compile_dataset(tmp_path)
    assert not (tmp_path / UNSOLVABLE_FILE).exists()
