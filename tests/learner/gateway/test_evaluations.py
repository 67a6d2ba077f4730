"""Evaluations of a whole gateway: before, during and after training, in rounds, and after a trainer went back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lamer.common.codec import encode_trial
from lamer.common.messages import Lease, Role, TrialDone
from lamer.common.records import EpisodeStatus, MemoryMode, Purpose, Trial
from lamer.common.settings import BatchSettings, EvaluationSettings
from lamer.learner.measuring.evaluation import EvaluationResult, read_evaluations
from tests.learner.gateway.test_gateway import play_whole_run, rows, until
from tests.learner.scripted import TIMEOUT, Actor, Host, Play, Run, Trainer, make_run, make_trial, play_at_once

BATCHES = BatchSettings(groups=2, group_size=2, updates=5, max_staleness=1)


async def evaluate_only(run: Run, play: Play = play_at_once) -> tuple[EvaluationResult, Actor]:
    """A run of no updates: what it measured, and its actor."""
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=3) as a, run.session(Role.HOST) as h:
            actor = Actor(a, play)
            await asyncio.gather(actor.run(), Host(h).run())
    (result,) = gateway.result().evaluations
    return result, actor


async def test_every_round_plays_every_task_with_the_memory_and_episodes_asked_for(tmp_path: Path) -> None:
    asked = EvaluationSettings(tasks=3, rounds=4, episodes=7, memory="none")
    run = make_run(tmp_path, batch=BatchSettings(updates=0), evaluation=asked)
    result, actor = await evaluate_only(run)
    assert len(actor.leases) == len({lease.trial_id for lease in actor.leases}) == 12
    assert {(lease.episodes, lease.memory) for lease in actor.leases} == {(7, MemoryMode.NONE)}
    assert sorted(lease.task.seed - 2**30 for lease in actor.leases) == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert result.pass_at == pytest.approx((2 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert read_evaluations(run.plan.run_dir) == (result,)
    assert [outcome.solved_at for outcome in result.outcomes] == [(0, 0, 0, 0), (2, 2, 2, 2), (0, 0, 0, 0)]
    assert (result.tasks, result.rounds, result.n) == (3, 4, 12)


async def test_training_is_measured_every_so_many_updates_by_the_version_that_it_came_to(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BATCHES, evaluation=EvaluationSettings(initial=False, every=2, tasks=6))
    result, actor, trainer = await play_whole_run(run)
    assert [batch.step for batch, _ in trainer.batches] == [1, 2, 3, 4, 5]
    measured = [(one.name, one.policy_version, one.n) for one in result.evaluations]
    assert measured == [("update-2", 2, 6), ("update-4", 4, 6), ("final", 5, 6)]
    assert {one.name for one in read_evaluations(run.plan.run_dir)} == {"update-2", "update-4", "final"}
    logged = {step for step, metrics in run.tracker.logged if any(each.name == "eval/pass@3" for each in metrics)}
    assert logged == {2, 4, 5}
    evaluations = [lease for lease in actor.leases if lease.purpose is Purpose.EVALUATE]
    assert sorted({lease.slot for lease in evaluations}) == [2, 4, 5]


async def test_no_update_is_given_out_while_its_version_is_measured_and_rollouts_go_on(tmp_path: Path) -> None:
    """Update 3 waits for the last evaluation trial of version 2; training trials that it admits are played."""
    run = make_run(tmp_path, batch=BATCHES, evaluation=EvaluationSettings(initial=False, every=2, tasks=4))
    held: list[tuple[Lease, int]] = []
    rollouts: list[Lease] = []

    def play(lease: Lease, version: int) -> Trial | None:
        if lease.purpose is Purpose.EVALUATE and lease.slot == 2 and lease.group_id == 3 and not held:
            held.append((lease, version))
            return None
        if lease.purpose is Purpose.TRAIN and lease.min_version == 2:
            rollouts.append(lease)
        return play_at_once(lease, version)

    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with (
            run.session(Role.ACTOR, capacity=8) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            actor, trainer = Actor(a, play), Trainer(t, run.plan.run_dir)
            working = [tasks.create_task(part.run()) for part in (actor, Host(h), trainer)]
            await until(lambda: bool(held and rollouts) and len(actor.acked) == len(actor.leases) - 1)
            await asyncio.sleep(0.3)  # a batch that must not come
            assert [batch.step for batch, _ in trainer.batches] == [1, 2]
            late = play_at_once(*held[0])
            await a.send(TrialDone(late.trial_id, encode_trial(late)))
            assert list(await asyncio.gather(*working)) == [0, 0, 0]
    assert [batch.step for batch, _ in trainer.batches] == [1, 2, 3, 4, 5]
    assert [one.policy_version for one in gateway.result().evaluations] == [2, 4, 5]


async def test_a_trainer_that_goes_back_has_its_later_versions_measured_again(tmp_path: Path) -> None:
    """It dies in update 3 after version 2 was measured, and comes back holding version 0: batch 2 is cut anew."""
    run = make_run(tmp_path, batch=BATCHES, evaluation=EvaluationSettings(initial=False, every=2, tasks=3))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=8) as a, run.session(Role.HOST) as h:
            actor = Actor(a)
            working = [tasks.create_task(actor.run()), tasks.create_task(Host(h).run())]
            async with run.session(Role.TRAINER) as t:
                await Trainer(t, run.plan.run_dir, dies_at=3).run()
            async with run.session(Role.TRAINER) as t:
                second = Trainer(t, run.plan.run_dir)
                assert await second.run() == 0
            await asyncio.gather(*working)
    assert [batch.step for batch, _ in second.batches] == [1, 2, 3, 4, 5]
    assert [one.policy_version for one in gateway.result().evaluations] == [2, 4, 5]
    plays = [lease.trial_id for lease in actor.leases if lease.purpose is Purpose.EVALUATE and lease.slot == 2]
    assert sorted(plays) == sorted(2 * [f"test-1/evaluate/{play}/2" for play in range(3)])


async def test_an_evaluation_is_abandoned_when_the_trainer_dies_and_goes_back_before_it(tmp_path: Path) -> None:
    """The trainer dies while version 2 is measured and comes back holding version 0: the run ends all the same."""
    run = make_run(tmp_path, batch=BATCHES, evaluation=EvaluationSettings(initial=False, every=2, tasks=3))
    waiting = asyncio.Event()

    def play(lease: Lease, version: int) -> Trial | None:
        if lease.purpose is Purpose.EVALUATE and lease.slot == 2 and not waiting.is_set():
            asyncio.get_running_loop().call_soon(waiting.set)
            return None
        return play_at_once(lease, version)

    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=8) as a, run.session(Role.HOST) as h:
            working = [tasks.create_task(Actor(a, play).run()), tasks.create_task(Host(h).run())]
            async with run.session(Role.TRAINER) as t:
                dying = tasks.create_task(Trainer(t, run.plan.run_dir).run())
                await waiting.wait()
                dying.cancel()
            async with run.session(Role.TRAINER) as t:
                second = Trainer(t, run.plan.run_dir)
                assert await second.run() == 0
            await asyncio.gather(*working)
    assert [batch.step for batch, _ in second.batches] == [1, 2, 3, 4, 5]
    assert [one.policy_version for one in gateway.result().evaluations] == [2, 4, 5]


async def test_a_resumed_run_reads_back_what_was_measured_before_its_checkpoint(tmp_path: Path) -> None:
    asked = EvaluationSettings(initial=True, every=2, tasks=3)
    run = make_run(tmp_path, batch=BATCHES, evaluation=asked)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=8) as a, run.session(Role.HOST) as h:
            helpers = [tasks.create_task(Actor(a).run()), tasks.create_task(Host(h).run())]
            async with run.session(Role.TRAINER) as t:
                await Trainer(t, run.plan.run_dir, dies_at=5).run()
                for task in (gateway, *helpers):
                    task.cancel()
    assert [one.name for one in read_evaluations(run.plan.run_dir)] == ["initial", "update-2", "update-4"]

    resumed = make_run(tmp_path, resume_step=3, batch=BATCHES, evaluation=asked)
    result, actor, _ = await play_whole_run(resumed, version=3)
    assert [one.name for one in result.evaluations] == ["initial", "update-2", "update-4", "final"]
    assert {lease.slot for lease in actor.leases if lease.purpose is Purpose.EVALUATE} == {4, 5}
    assert rows(resumed, "SELECT DISTINCT slot FROM trials WHERE purpose = 'evaluate' ORDER BY 1") == [
        (0,),
        (2,),
        (4,),
        (5,),
    ]


async def test_prompts_that_outgrow_the_context_count_as_unsolved(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(updates=0), evaluation=EvaluationSettings(tasks=4))

    def play(lease: Lease, version: int) -> Trial:
        status = EpisodeStatus.CONTEXT_OVERFLOW if lease.group_id == 0 else EpisodeStatus.SOLVED
        return make_trial(lease, version, (status,))

    result, _ = await evaluate_only(run, play)
    assert (result.pass_at[0], result.overflowed) == (0.75, 1)
