"""Trials that no honest actor can have sent, from one that holds the lease: kept apart, and the run goes on."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from lamer.common.codec import encode_trial
from lamer.common.messages import Ack, Lease, Nack, NackKind, Role, Servers, TrialDone
from lamer.common.records import Trial, VersionSpan
from lamer.common.session import Session
from lamer.common.settings import BatchSettings, GatewaySettings
from lamer.learner.journal.reader import read_batch
from tests.learner.scripted import TIMEOUT, Actor, Host, Run, Trainer, make_run, make_trial

T = TypeVar("T")


def write_vocabulary(run: Run) -> None:
    Path(run.plan.model_path, "config.json").write_text(json.dumps({"vocab_size": 64}))


replace = msgspec.structs.replace


def with_completion(trial: Trial, **changes: object) -> Trial:
    """The trial with another first completion."""
    turn = trial.episodes[0].turns[0]
    completion = replace(turn.completion, **changes)
    return with_turn(trial, completion=completion)


def with_turn(trial: Trial, **changes: object) -> Trial:
    turn = replace(trial.episodes[0].turns[0], **changes)
    episode = replace(trial.episodes[0], turns=(turn,))
    return replace(trial, episodes=(episode, *trial.episodes[1:]))


def huge_version(trial: Trial) -> bytes:
    """Beyond 63 bits, as msgspec writes it."""
    return encode_trial(with_completion(trial, versions=(VersionSpan(2**63, 0, 3),)))


def spans(version: int) -> tuple[VersionSpan, ...]:
    return (VersionSpan(version, 0, 3),)


POISONS: dict[str, Callable[[Trial], bytes]] = {
    "a reward is nan": lambda trial: encode_trial(with_turn(trial, reward=math.nan)),
    "a temperature is 0.0": lambda trial: encode_trial(with_completion(trial, temperature=0.0)),
    "a token id is 64": lambda trial: encode_trial(with_completion(trial, ids=np.array([1, 2, 64], np.int32))),
    "a policy version is 1000000": lambda trial: encode_trial(with_completion(trial, versions=spans(10**6))),
    "a policy version is -1": lambda trial: encode_trial(with_completion(trial, versions=spans(-1))),
    "a logprob is -3.0": lambda trial: encode_trial(
        with_completion(trial, behaviour_logprobs=np.full(3, -3e38, np.float32))
    ),
    "Expected `int` <= 9223372036854775807": huge_version,
}


async def receive(session: Session, kind: type[T]) -> T:
    while not isinstance(message := await session.receive(), kind):
        pass
    return message


async def test_poisoned_trials_are_kept_apart_and_their_slots_are_played_again(tmp_path: Path) -> None:
    """One actor answers its first leases with one poison each; its later trials are trained, and nothing else is."""
    run = make_run(tmp_path, gateway=GatewaySettings(heartbeat_seconds=0.1, dead_after_seconds=5.0, slot_retries=9))
    write_vocabulary(run)
    poisons = list(POISONS.items())
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with (
            run.session(Role.ACTOR, capacity=1) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            tasks.create_task(Host(h).run())
            reasons = []
            actor, trainer = Actor(a, make_trial), Trainer(t, run.plan.run_dir)
            actor.servers = await receive(a, Servers)
            while not actor.servers.servers:
                actor.servers = await receive(a, Servers)
            for _, make in poisons:
                lease = await receive(a, Lease)
                await a.send(TrialDone(lease.trial_id, make(make_trial(lease))))
                nack = await receive(a, Nack)
                assert nack.kind is NackKind.INVALID
                reasons.append(nack.reason)
            assert await asyncio.gather(actor.run(), trainer.run()) == [0, 0]
        result = await gateway
    assert [reason for reason, (name, _) in zip(reasons, poisons, strict=True) if name not in reason] == []
    assert (result.exit_code, result.updates, result.drops) == (0, 3, ())
    trained = [trial for _, trials in trainer.batches for trial in trials]
    assert len(trained) == 12
    assert all(turn.reward == 1.0 for trial in trained for episode in trial.episodes for turn in episode.turns)
    assert len(list((run.plan.run_dir / "quarantine").glob("*.msgpack"))) == len(poisons)


async def test_logprobs_above_zero_are_stored_as_zero(tmp_path: Path) -> None:
    def play(lease: Lease, version: int) -> Trial:
        return with_completion(make_trial(lease, version), behaviour_logprobs=np.array([1e-5, -0.5, 0.0], np.float32))

    run = make_run(tmp_path, batch=BatchSettings(groups=1, group_size=1, updates=1, max_staleness=0))
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with (
            run.session(Role.ACTOR, capacity=1) as a,
            run.session(Role.HOST) as h,
            run.session(Role.TRAINER) as t,
        ):
            tasks.create_task(Host(h).run())
            await asyncio.gather(Actor(a, play).run(), Trainer(t, run.plan.run_dir).run())
    (stored,) = read_batch(run.plan.run_dir / "journal.db", 1)
    assert [each.behaviour_logprobs.tolist() for each in stored.completions()] == [[0.0, -0.5, 0.0]]


async def test_a_trial_of_weights_that_an_earlier_gateway_announced_is_taken(tmp_path: Path) -> None:
    """The learner was killed at version 2 and goes on from checkpoint 0; the actor holds a trial of version 2."""
    run = make_run(tmp_path, resume_step=0)
    (run.plan.run_dir / "weights" / "v2").mkdir(parents=True)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as a:
            tasks.create_task(run.host())
            versions, answers = [2, 3], list[str]()
            while len(answers) < 2:
                match await a.receive():
                    case Lease() as lease if versions:
                        await a.send(TrialDone(lease.trial_id, encode_trial(make_trial(lease, versions.pop(0)))))
                    case Ack() | Nack() as answer:
                        answers.append(type(answer).__name__)
        assert sorted(answers) == ["Ack", "Nack"]
        assert "a policy version is 3" in (run.plan.run_dir / "quarantine" / "000.txt").read_text()
        run.stop.set()
