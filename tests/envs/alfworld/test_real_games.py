"""The 36 real games, two of each type and split: solved by the planner through our environment, everywhere equal."""

from __future__ import annotations

import asyncio
import collections
from pathlib import Path

import pytest

from lamer.envs.alfworld.env import AlfworldEnv
from lamer.envs.alfworld.games import OUT_OF_DISTRIBUTION, SPLITS, TASK_TYPES, GameFiles, find_games, game_names
from lamer.envs.alfworld.houses import WORKER, House
from lamer.envs.alfworld.prompts import FullStyle
from lamer.envs.workers.pool import PoolLimits, WorkerPool
from tests.envs.alfworld.houses import needs_engine, unpack_mini

pytestmark = needs_engine
AT_ONCE = 4


async def play_plan(
    files: GameFiles, pool: WorkerPool, plan: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[str], bool]:
    """Follow a plan, the planner's own where None is given: (plan, everything that was seen, whether it was solved)."""
    env = AlfworldEnv(House(files, lambda: pool), FullStyle(), max_turns=50)
    try:
        seen = [(await env.start()).anchor_state]
        if plan is None:
            plan = await asyncio.to_thread(env.plan)
        is_solved = False
        for command in plan:
            result = await env.play(env.answer(command))
            seen.append(result.observation.anchor_state)
            is_solved = result.is_solved and result.reward == 10.0
        assert (await env.start()).anchor_state == seen[0], "a restart shows the same house"
        return plan, seen, is_solved
    finally:
        env.close()


async def play_all(
    games: list[GameFiles], pool: WorkerPool, plans: dict[str, tuple[str, ...]]
) -> dict[str, tuple[tuple[str, ...], list[str], bool]]:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(files: GameFiles) -> tuple[str, tuple[tuple[str, ...], list[str], bool]]:
        async with free:
            return files.name, await play_plan(files, pool, plans.get(files.name))

    return dict(await asyncio.gather(*map(one, games)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_the_planner_solves_every_real_game_and_every_process_shows_the_same(
    shared: Path, tmp_path: Path
) -> None:
    dataset = unpack_mini(shared, tmp_path)
    games = [GameFiles(dataset, name) for split in SPLITS for name in game_names(dataset, split)]
    assert len(games) == 36
    first, second = (WorkerPool(WORKER, PoolLimits(2)) for _ in range(2))
    try:
        played = await play_all(games, first, {})
        plans = {name: plan for name, (plan, _, _) in played.items()}
        again = await play_all(games[::-1], second, plans)
    finally:
        first.close()
        second.close()
    solved = collections.Counter(name.split("/")[1].partition("-")[0] for name, (_, _, ok) in played.items() if ok)
    lengths = sorted(len(plan) for plan in plans.values())
    print(f"solved {solved.total()} of {len(games)}: {dict(solved)}; plans of {lengths[0]} to {lengths[-1]} commands")
    assert solved == dict.fromkeys(TASK_TYPES.values(), 6)
    assert again == played


@pytest.mark.parametrize("split", SPLITS)
def test_splits_hold_the_types_of_the_paper(shared: Path, tmp_path: Path, split: str) -> None:
    dataset = unpack_mini(shared, tmp_path)
    inside = find_games(str(dataset), split, ("pick", "look", "clean", "heat"))
    outside = find_games(str(dataset), split, OUT_OF_DISTRIBUTION)
    assert (len(inside), len(outside)) == (8, 4)
    assert not {game.name for game in inside} & {game.name for game in outside}
