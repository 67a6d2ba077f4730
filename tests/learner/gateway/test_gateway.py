"""A whole gateway on a real socket with CURVE, and scripted clients around it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from lamer.common.codec import encode_trial
from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.keys import create_keys, load_client_keys
from lamer.common.messages import (
    Ack,
    Batch,
    BatchRequest,
    Checkpointed,
    Hello,
    Lease,
    Nack,
    NackKind,
    Phase,
    Published,
    Role,
    Shutdown,
    Status,
    StatusRequest,
    TrialDone,
    TrialFailed,
    UpdateReport,
)
from lamer.common.records import EpisodeStatus, Purpose, Trial
from lamer.common.session import Session
from lamer.common.settings import BatchSettings, EvaluationSettings, GatewaySettings
from lamer.learner.gateway.gateway import run_gateway
from lamer.learner.journal.reader import read_batch
from lamer.learner.measuring.result import RunResult
from tests.learner.scripted import (
    FILES,
    TIMEOUT,
    Actor,
    Host,
    Play,
    Run,
    Trainer,
    hello,
    make_run,
    make_trial,
    play_at_once,
)

T = TypeVar("T")


async def play_whole_run(run: Run, play: Play = play_at_once, version: int = 0) -> tuple[RunResult, Actor, Trainer]:
    """A run with one actor, one host and one trainer, from Hello to Shutdown."""
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with (
            run.session(Role.ACTOR, capacity=8) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            actor, host, trainer = Actor(a, play), Host(h), Trainer(t, run.plan.run_dir, version)
            codes = list(await asyncio.gather(actor.run(), host.run(), trainer.run()))
        assert codes == [0, 0, 0]
        return await gateway, actor, trainer


def rows(run: Run, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(run.plan.run_dir / "journal.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the scripted clients have no event to wait for
            await asyncio.sleep(0.01)


async def test_a_run_trains_every_update_on_whole_groups_and_tells_everyone_to_stop(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result, actor, trainer = await play_whole_run(run)
    assert [batch.step for batch, _ in trainer.batches] == [1, 2, 3]
    for batch, trials in trainer.batches:
        assert [trial.trial_id for trial in trials] == sorted(batch.trial_ids)
        assert sorted((trial.group_id, trial.slot) for trial in trials) == sorted(
            (group, slot) for group in {trial.group_id for trial in trials} for slot in (0, 1)
        )
        assert len(trials) == 4
    assert sorted(actor.acked) == sorted(lease.trial_id for lease in actor.leases)
    assert (result.exit_code, result.updates, result.policy_version, result.trials) == (0, 3, 3, 12)
    assert result.response_tokens == sum(trial.response_tokens for _, trials in trainer.batches for trial in trials)
    assert rows(run, "SELECT state, checkpoint, COUNT(*) FROM trials GROUP BY 1, 2") == [
        ("trained", 1, 4),
        ("trained", 2, 4),
        ("trained", 3, 4),
    ]


async def test_trials_that_a_checkpoint_covers_leave_the_journal_and_are_read_as_before(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    _, _, trainer = await play_whole_run(run)
    assert rows(run, "SELECT COUNT(*) FROM trials WHERE length(body) > 0") == [(0,)]
    assert {file.suffix for file in (run.plan.run_dir / "segments").iterdir()} == {".zst"}
    for batch, trials in trainer.batches:
        again = read_batch(run.plan.run_dir / "journal.db", batch.step)
        assert [encode_trial(trial) for trial in again] == [encode_trial(trial) for trial in trials]


async def test_every_slot_of_a_group_has_the_task_that_the_seed_rule_gives(tmp_path: Path) -> None:
    _, actor, _ = await play_whole_run(make_run(tmp_path))
    assert {lease.task.seed for lease in actor.leases} == set(range(6))
    assert all(lease.task.seed == lease.group_id for lease in actor.leases)


async def test_metrics_of_trainer_and_gateway_go_to_the_file_and_the_tracker(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    await play_whole_run(run)
    lines = [json.loads(line) for line in (run.plan.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {
        "loss",
        "rollout/trials_per_second",
        "staleness/max",
        "drops/groups",
        "trainer/wait_seconds",
        "gateway/loop_lag_seconds",
    } <= set(lines[0])
    assert lines[0]["weights/pause_seconds"] == 0.01
    assert [step for step, _ in run.tracker.logged] == [1, 2, 3]


class AskingFirst(Trainer):
    """Asks for the next batch while the weights of its version are being written."""

    async def train(self, batch: Batch) -> None:
        self.batches.append((batch, read_batch(self.run_dir / "journal.db", batch.step)))
        self.version = batch.step
        await self.session.send(UpdateReport(batch.step, ()))
        if batch.step < 3:
            await self.session.send(BatchRequest(self.version))
            await asyncio.sleep(0.05)
        await self.session.send(Published(self.version, f"weights/v{self.version}", FILES))
        await self.session.send(Checkpointed(batch.step, f"checkpoints/{batch.step}"))
        if batch.step == 3:
            await self.session.send(BatchRequest(self.version))


@pytest.mark.parametrize("max_staleness", [0, 1])
async def test_a_trainer_may_ask_for_a_batch_before_its_weights_are_announced(
    tmp_path: Path, max_staleness: int
) -> None:
    """They follow; what is trained is as fresh as ever."""
    run = make_run(tmp_path, batch=BatchSettings(groups=2, group_size=2, updates=3, max_staleness=max_staleness))
    gateway = asyncio.create_task(run_gateway(run.plan, run.stop))
    async with (
        asyncio.timeout(TIMEOUT),
        run.session(Role.ACTOR, capacity=8) as a,
        run.session(Role.HOST) as h,
        run.session(Role.TRAINER) as t,
    ):
        trainer = AskingFirst(t, run.plan.run_dir)
        assert await asyncio.gather(Actor(a).run(), Host(h).run(), trainer.run()) == [0, 0, 0]
    assert (await gateway).policy_version == 3
    assert [batch.policy_version for batch, _ in trainer.batches] == [0, 1, 2]
    ages = {batch.policy_version - trial.oldest_version for batch, trials in trainer.batches for trial in trials}
    assert max(ages) <= max_staleness


async def test_a_trainer_with_a_version_that_it_was_given_no_batch_for_is_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    gateway = asyncio.create_task(run_gateway(run.plan, run.stop))
    async with asyncio.timeout(TIMEOUT), run.session(Role.TRAINER) as session:
        await session.send(BatchRequest(1))
        while not isinstance(message := await session.receive(), Shutdown):
            pass
    assert (message.exit_code, "which the gateway never got" in message.reason) == (1, True)
    run.stop.set()
    await gateway


async def test_staleness_zero_trains_only_on_tokens_of_the_version_trained_from(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(groups=2, group_size=2, updates=4, max_staleness=0))
    result, _, trainer = await play_whole_run(run)
    for batch, trials in trainer.batches:
        assert {trial.oldest_version for trial in trials} == {batch.policy_version}
    assert result.staleness_max == 0


async def test_evaluations_before_and_after_training_measure_their_version_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, evaluation=EvaluationSettings(initial=True, tasks=6, temperature=0.7))
    result, actor, _ = await play_whole_run(run)
    assert [(one.name, one.policy_version, one.n) for one in result.evaluations] == [("initial", 0, 6), ("final", 3, 6)]
    # Seeds 2**30 + i: the three even ones are solved at once, the three odd ones in the third episode.
    assert result.evaluations[1].pass_at == (0.5, 0.5, 1.0)
    assert result.evaluations[1].mean_turns == 2.0
    assert result.evaluations[1].valid_action_rate == 1.0
    assert result.evaluations[1].first_action_entropy == pytest.approx(1.0986, abs=1e-4)
    assert result.evaluations[1].sampling.temperature == 0.7
    measured = [lease for lease in actor.leases if lease.purpose is Purpose.EVALUATE]
    assert {lease.task.seed for lease in measured} == {2**30 + i for i in range(6)}
    assert rows(run, "SELECT COUNT(*) FROM trials WHERE state = 'evaluated'") == [(12,)]


async def test_a_run_of_no_updates_is_one_evaluation_without_a_trainer(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(updates=0), evaluation=EvaluationSettings(tasks=5))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=2) as actor, run.session(Role.HOST) as host:
            assert list(await asyncio.gather(Actor(actor).run(), Host(host).run())) == [0, 0]
    assert [(one.name, one.policy_version, one.n) for one in gateway.result().evaluations] == [("final", 0, 5)]


async def test_an_actor_never_holds_more_leases_than_its_capacity(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=3) as session:
            tasks.create_task(run.host())
            actor = Actor(session, lambda _lease, _version: None)
            playing = tasks.create_task(actor.run())
            await until(lambda: len(actor.leases) == 3)
            async with run.session(Role.OBSERVER) as observer:
                await observer.send(StatusRequest())
                status = await observer.receive()
                assert isinstance(status, Status)
                assert (status.phase, status.in_flight, status.actors, status.servers) == (Phase.TRAINING, 3, 1, 1)
            assert len(actor.leases) == 3
            run.stop.set()
            await playing


async def test_a_resent_trial_is_acknowledged_again_and_stored_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as session:
            tasks.create_task(run.host())
            actor = Actor(session)
            playing = tasks.create_task(actor.run())
            await until(lambda: len(actor.acked) > 0)
            first = actor.leases[0]
            again = TrialDone(first.trial_id, encode_trial(make_trial(first)))
            await session.send(again)
            await session.send(again)
            await until(lambda: actor.acked.count(first.trial_id) == 3)
            run.stop.set()
            await playing
    assert rows(run, f"SELECT COUNT(*) FROM trials WHERE trial_id = '{first.trial_id}'") == [(1,)]


async def test_a_trial_is_acknowledged_only_after_its_commit(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as session:
            tasks.create_task(run.host())
            lease = await receive(session, Lease)
            # A lock on the journal holds the commit back; the acknowledgement must wait for it.
            lock = sqlite3.connect(run.plan.run_dir / "journal.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            await session.send(TrialDone(lease.trial_id, encode_trial(make_trial(lease))))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(session, Ack), 0.5)
            lock.execute("COMMIT")
            lock.close()
            assert (await receive(session, Ack)).trial_ids == (lease.trial_id,)
            assert rows(run, "SELECT trial_id FROM trials") == [(lease.trial_id,)]
            run.stop.set()
            await receive(session, Shutdown)


async def test_leases_of_a_dead_actor_go_to_another(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(groups=1, group_size=2, updates=1, max_staleness=0))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.TRAINER) as trainer:
            tasks.create_task(run.host())
            session = await Session.open(await run.url(), run.keys(Role.ACTOR), hello(Role.ACTOR, "mortal", 8), 5.0)
            lost = {(await receive(session, Lease)).trial_id, (await receive(session, Lease)).trial_id}
            await kill(session)
            async with run.session(Role.ACTOR, "heir", 8) as heir:
                actor = Actor(heir)
                await asyncio.gather(actor.run(), Trainer(trainer, run.plan.run_dir).run())
    assert {lease.trial_id for lease in actor.leases} == lost


async def test_a_lease_past_its_deadline_is_leased_again_and_the_late_trial_still_counts_once(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        batch=BatchSettings(groups=1, group_size=2, updates=1, max_staleness=0),
        gateway=GatewaySettings(heartbeat_seconds=0.05, dead_after_seconds=1.0, lease_seconds=0.3, slot_retries=50),
    )
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=2) as session:
            tasks.create_task(run.host())
            first, second = await receive(session, Lease), await receive(session, Lease)
            again = await receive(session, Lease)
            assert again in (first, second)
            for lease in (first, second):
                await session.send(TrialDone(lease.trial_id, encode_trial(make_trial(lease))))
            assert {*(await receive(session, Ack)).trial_ids} <= {first.trial_id, second.trial_id}
            async with run.session(Role.TRAINER) as trainer:
                await Trainer(trainer, run.plan.run_dir).run()
    assert rows(run, "SELECT COUNT(*) FROM trials") == [(2,)]


async def test_a_goodbye_returns_leases_without_counting_a_failure(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        batch=BatchSettings(groups=1, group_size=1, updates=1, max_staleness=0),
        gateway=GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=30.0, slot_retries=0),
    )
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        tasks.create_task(run.host())
        for _ in range(3):
            async with run.session(Role.ACTOR, capacity=1) as session:
                lease = await receive(session, Lease)
                assert (lease.group_id, lease.slot) == (0, 0)
        run.stop.set()


async def test_an_environment_fault_is_played_again_and_then_drops_the_whole_group(tmp_path: Path) -> None:
    def play(lease: Lease, version: int) -> Trial:
        is_broken = (lease.group_id, lease.slot) == (1, 0)
        return (
            make_trial(lease, version, (EpisodeStatus.ENVIRONMENT_ERROR,))
            if is_broken
            else play_at_once(lease, version)
        )

    run = make_run(tmp_path)
    result, actor, trainer = await play_whole_run(run, play)
    played = [lease.trial_id for lease in actor.leases if (lease.group_id, lease.slot) == (1, 0)]
    assert len(played) == 2, "one lease and one retry"
    assert 1 not in {trial.group_id for _, trials in trainer.batches for trial in trials}
    assert [(drop.name, drop.value) for drop in result.drops] == [("environment_error", 1.0)]
    assert ("environment_error", "environment_error", 3) in rows(
        run, "SELECT reason, outcome, response_tokens FROM drops"
    )


async def test_a_context_overflow_drops_its_group_at_once(tmp_path: Path) -> None:
    def play(lease: Lease, version: int) -> Trial:
        overflows = (lease.group_id, lease.slot) == (0, 1)
        return (
            make_trial(lease, version, (EpisodeStatus.CONTEXT_OVERFLOW,)) if overflows else play_at_once(lease, version)
        )

    result, actor, _ = await play_whole_run(make_run(tmp_path), play)
    assert [lease.slot for lease in actor.leases if lease.group_id == 0].count(1) == 1
    assert [(drop.name, drop.value) for drop in result.drops] == [("context_overflow", 1.0)]


async def test_a_reported_failure_is_played_again(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as session:
            tasks.create_task(run.host())
            lease = await receive(session, Lease)
            await session.send(TrialFailed(lease.trial_id, "the server went away"))
            assert await receive(session, Lease) == lease
            run.stop.set()


async def test_a_trial_that_was_not_leased_goes_to_quarantine_and_others_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as session:
            tasks.create_task(run.host())
            lease = await receive(session, Lease)
            await session.send(TrialDone(lease.trial_id, b"\x93garbage"))
            nack = await receive(session, Nack)
            assert (nack.trial_id, nack.kind) == (lease.trial_id, NackKind.INVALID)
            lease = await receive(session, Lease)
            forged = replace_task_seed(make_trial(lease), 77)
            await session.send(TrialDone(lease.trial_id, encode_trial(forged)))
            assert "leased was" in (await receive(session, Nack)).reason
            run.stop.set()
    kept = sorted(path.name for path in (run.plan.run_dir / "quarantine").iterdir())
    assert kept == ["000.msgpack", "000.txt", "001.msgpack", "001.txt"]
    assert (run.plan.run_dir / "quarantine" / "000.msgpack").read_bytes() == b"\x93garbage"


async def test_malformed_and_misplaced_messages_hurt_nobody_else(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.OBSERVER) as observer:
            await observer._endpoint.send(b"\xc1 no message at all")
            await observer.send(BatchRequest(0))
            await observer.send(TrialFailed("test-1/train/0/0", "not an actor"))
            await observer.send(StatusRequest())
            assert isinstance(await observer.receive(), Status)
            run.stop.set()


async def test_a_restarted_trainer_gets_the_batch_after_its_checkpoint_and_later_claims_return(tmp_path: Path) -> None:
    run = make_run(tmp_path, batch=BatchSettings(groups=2, group_size=2, updates=4, max_staleness=1))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=8) as actor:
            playing = tasks.create_task(Actor(actor).run())
            tasks.create_task(run.host())
            async with run.session(Role.TRAINER) as session:
                first = Trainer(session, run.plan.run_dir, dies_at=3)
                await first.run()
            async with run.session(Role.TRAINER) as session:
                second = Trainer(session, run.plan.run_dir, version=1)
                assert await second.run() == 0
            assert await playing == 0
    assert [batch.step for batch, _ in second.batches] == [2, 3, 4]
    assert second.batches[0][0] == first.batches[1][0], "the batch after its checkpoint is the one claimed before"
    assert gateway.result().updates == 4
    trained = [trial.trial_id for trials in (first.batches[0][1], *(t for _, t in second.batches)) for trial in trials]
    assert len(trained) == len(set(trained)) == 16


async def test_a_killed_gateway_resumes_without_losing_or_repeating_a_trial(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=8) as actor, run.session(Role.HOST) as host:
            helpers = [tasks.create_task(Actor(actor).run()), tasks.create_task(Host(host).run())]
            async with run.session(Role.TRAINER) as session:
                first = Trainer(session, run.plan.run_dir, dies_at=2)
                await first.run()
                for task in (gateway, *helpers):
                    task.cancel()
    stored = {trial_id for (trial_id,) in rows(run, "SELECT trial_id FROM trials")}
    resumed = make_run(tmp_path, resume_step=1)
    result, actor_after, trainer_after = await play_whole_run(resumed, version=1)
    assert [batch.step for batch, _ in trainer_after.batches] == [2, 3]
    assert result.resumed_from == 1
    assert not stored & {lease.trial_id for lease in actor_after.leases}, "what is on disk is not played again"
    trained = [
        trial.trial_id for trials in (first.batches[0][1], *(t for _, t in trainer_after.batches)) for trial in trials
    ]
    assert len(trained) == len(set(trained)) == 12


async def test_a_trainer_that_holds_an_unknown_version_is_sent_away(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.TRAINER) as trainer:
            await trainer.send(BatchRequest(7))
            assert (await receive(trainer, Shutdown)).exit_code == 1
            run.stop.set()


async def test_an_interrupt_sends_everyone_away_with_130_and_commits(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=4) as session, run.session(Role.HOST) as host:
            hosting = tasks.create_task(Host(host).run())
            actor = Actor(session)
            playing = tasks.create_task(actor.run())
            await until(lambda: len(actor.acked) > 0)
            run.stop.set()
            assert list(await asyncio.gather(playing, hosting)) == [130, 130]
    assert gateway.result().exit_code == 130
    assert {trial_id for (trial_id,) in rows(run, "SELECT trial_id FROM trials")} >= set(actor.acked)


async def test_a_trainer_that_can_not_be_kept_ends_everybody_with_its_code(tmp_path: Path) -> None:
    """Not with 130: nobody interrupted the run."""
    run = make_run(tmp_path)
    trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(TIMEOUT):
        running = asyncio.create_task(run_gateway(run.plan, run.stop, trouble=trouble))
        async with run.session(Role.ACTOR, capacity=1) as session:
            trouble.set_exception(Missing("there is no GPU (trainer, ended with code 3)"))
            shutdown = await receive(session, Shutdown)
        with pytest.raises(Missing, match="no GPU"):
            await running
    assert (shutdown.exit_code, "no GPU" in shutdown.reason) == (3, True)


async def test_a_run_in_which_no_group_can_be_trained_fails_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    overflow = (EpisodeStatus.CONTEXT_OVERFLOW,)

    async def play_all() -> list[int]:
        async with run.session(Role.ACTOR, capacity=8) as session:
            actor = Actor(session, lambda lease, version: make_trial(lease, version, overflow))
            return list(await asyncio.gather(actor.run(), run.host()))

    playing = asyncio.create_task(play_all())
    with pytest.raises(RunFailed, match="max_prompt_tokens"):
        await asyncio.wait_for(run.gateway(), TIMEOUT)
    assert await asyncio.wait_for(playing, TIMEOUT) == [1, 1]


async def test_a_record_that_cannot_be_written_ends_the_run_for_everyone_with_the_real_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.plan.run_dir / "metrics.jsonl").symlink_to("/dev/full")

    async def play_all() -> list[int]:
        async with (
            run.session(Role.ACTOR, capacity=8) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            everyone = (Actor(a).run(), Host(h).run(), Trainer(t, run.plan.run_dir).run())
            return list(await asyncio.gather(*everyone))

    playing = asyncio.create_task(play_all())
    with pytest.raises(RunFailed, match=r"the disk is full .*free some space"):
        await asyncio.wait_for(run.gateway(), TIMEOUT)
    assert await asyncio.wait_for(playing, TIMEOUT) == [1, 1, 1]


async def test_a_taken_port_is_missing_with_the_port_in_the_message(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run = make_run(tmp_path / "one")
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        port = int((await run.url()).rsplit(":", 1)[1])
        other = make_run(tmp_path / "two", gateway=GatewaySettings(port=port))
        with pytest.raises(Missing, match=f"port {port} .* is taken"):
            await other.gateway()
        run.stop.set()


async def test_a_new_run_refuses_a_folder_that_holds_another_journal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.plan.run_dir / "journal.db").touch()
    with pytest.raises(BadInput, match="holds a run already"):
        await run.gateway()


async def test_clients_with_a_wrong_key_protocol_or_run_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    create_keys(tmp_path / "other")
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        url, actor = await run.url(), hello(Role.ACTOR, "a", 1)
        stranger, keys = load_client_keys(tmp_path / "other", Role.ACTOR), run.keys(Role.ACTOR)
        with pytest.raises(Missing, match="wrong CURVE key"):
            await Session.open(url, stranger, actor, 5.0)
        with pytest.raises(Missing, match="wrong CURVE key"):
            await Session.open(url, replace(stranger, server_public=keys.server_public), actor, 5.0)
        for changes, reason in (
            ({"protocol_min": 9, "protocol_max": 9}, "speaks protocol 1"),
            ({"run": "another"}, "expects run another"),
            ({"config_hash": "0000"}, "expects config hash"),
            ({"capacity": 0}, "at least one trial"),
        ):
            with pytest.raises(BadInput, match=reason):
                await Session.open(url, keys, changed(actor, **changes), 5.0)
        run.stop.set()


async def receive(session: Session, kind: type[T]) -> T:
    """The next message of a kind; others are skipped."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            message = await session.receive()
            if isinstance(message, kind):
                return message


async def kill(session: Session) -> None:
    """End a session as SIGKILL would: without a Goodbye."""
    session._is_over = True
    session._task.cancel()
    await asyncio.wait([session._task])
    session._endpoint.close(linger_ms=0)


def changed(message: Hello, **changes: object) -> Hello:
    return msgspec.structs.replace(message, **changes)


def replace_task_seed(trial: Trial, seed: int) -> Trial:
    return msgspec.structs.replace(trial, task=msgspec.structs.replace(trial.task, seed=seed))
