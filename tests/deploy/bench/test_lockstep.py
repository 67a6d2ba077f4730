"""The barrier of lock-step rollout: who waits for whom."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from lamer.actors.policy import InferenceError, Request, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.trial import TrialLimits
from lamer.common.errors import RunFailed
from lamer.common.messages import Lease, Sampling
from lamer.common.records import Completion, FinishReason, MemoryMode, Purpose, Task, VersionSpan
from lamer.deploy.bench.lockstep import LockStep, Position, Seat, play_batch
from lamer.deploy.bench.scripted import ScriptedConfig, ScriptedFactory, write_model_folder

PLAY, REFLECT = RequestKind.PLAY, RequestKind.REFLECT


def request(kind: RequestKind = PLAY, seed: int = 0) -> Request:
    ids = np.array([1], dtype=np.int32)
    return Request(ids, max_tokens=8, stop=(), temperature=1.0, top_p=1.0, top_k=0, seed=seed, kind=kind)


def completion(seed: int) -> Completion:
    """A response of three tokens that depends on the seed, as a policy's would."""
    ids = np.array([seed % 509 + 1, seed // 509 % 509 + 1, 5], dtype=np.int32)
    logprobs = np.full(3, -1.0, dtype=np.float32)
    return Completion(np.array([1], dtype=np.int32), ids, logprobs, (VersionSpan(0, 0, 3),), FinishReason.STOP)


class RecordingPolicy:
    """Answers once `gate` is open; a round is what was in flight together, by the kinds of its requests."""

    def __init__(self) -> None:
        self.rounds: list[list[RequestKind]] = []
        self.gate = asyncio.Event()
        self._in_flight = 0

    async def complete(self, request: Request) -> Completion:
        if self._in_flight == 0:
            self.rounds.append([])
        self._in_flight += 1
        self.rounds[-1].append(request.kind)
        await self.gate.wait()
        await settle()  # longer than it takes to start all requests of a round
        self._in_flight -= 1
        return completion(request.seed)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_nobody_is_asked_before_every_seat_is_ready() -> None:
    policy = RecordingPolicy()
    barrier = LockStep(policy)
    first, second = barrier.join(), barrier.join()
    policy.gate.set()
    early = asyncio.create_task(first.complete(request()))
    await settle()
    assert policy.rounds == []
    await second.complete(request())
    await early
    assert policy.rounds == [[PLAY, PLAY]]


async def test_the_next_turn_waits_for_the_slowest_response() -> None:
    policy = RecordingPolicy()
    barrier = LockStep(policy)
    fast, slow = barrier.join(), barrier.join()
    turns = [asyncio.create_task(fast.complete(request())), asyncio.create_task(slow.complete(request()))]
    await settle()
    policy.gate.set()
    await asyncio.gather(*turns)
    ahead = asyncio.create_task(fast.complete(request()))
    await settle()
    assert len(policy.rounds) == 1
    await slow.complete(request())
    await ahead
    assert [len(round_) for round_ in policy.rounds] == [2, 2]


async def test_a_trial_that_reflects_early_waits_for_the_episodes_of_the_others() -> None:
    policy = RecordingPolicy()
    policy.gate.set()
    barrier = LockStep(policy)
    short, long = barrier.join(), barrier.join()

    async def play(seat: Seat, kinds: tuple[RequestKind, ...]) -> None:
        for kind in kinds:
            await seat.complete(request(kind))
        seat.leave()

    await asyncio.gather(play(short, (PLAY, REFLECT, PLAY)), play(long, (PLAY, PLAY, PLAY, REFLECT, PLAY)))
    assert policy.rounds == [[PLAY, PLAY], [PLAY], [PLAY], [REFLECT, REFLECT], [PLAY, PLAY]]


async def test_a_trial_that_is_over_holds_nobody_up() -> None:
    policy = RecordingPolicy()
    policy.gate.set()
    barrier = LockStep(policy)
    stays, leaves = barrier.join(), barrier.join()
    waiting = asyncio.create_task(stays.complete(request()))
    await settle()
    assert not waiting.done()
    leaves.leave()
    await waiting
    assert policy.rounds == [[PLAY]]


def test_positions_count_turns_within_episodes_and_reflections() -> None:
    position = Position(0, -1)
    seen = []
    for kind in (PLAY, PLAY, REFLECT, PLAY, REFLECT):
        position = position.after(kind)
        seen.append((position.stage, position.turn))
    assert seen == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]


def leases(count: int, episodes: int) -> list[Lease]:
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=64, max_reflection_tokens=64)
    return [
        Lease(
            trial_id=f"bench/train/0/{slot}",
            group_id=0,
            slot=slot,
            purpose=Purpose.TRAIN,
            task=Task("scripted", "{}", 7),
            episodes=episodes,
            memory=MemoryMode.BOTH,
            sampling=sampling,
            seconds=1000.0,
        )
        for slot in range(count)
    ]


@pytest.fixture
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder = tmp_path_factory.mktemp("model")
    write_model_folder(folder)
    return Renderer.load(folder, use_chat_template=False)


async def test_a_batch_of_real_trials_takes_at_most_23_rounds_for_three_episodes_of_seven_turns(
    renderer: Renderer,
) -> None:
    policy = RecordingPolicy()
    policy.gate.set()
    count = 40
    envs = [ScriptedFactory().make(ScriptedConfig(), 7) for _ in range(count)]
    trials = await play_batch(leases(count, 3), envs, policy, renderer, TrialLimits(0, 2048))
    assert [trial.slot for trial in trials] == list(range(count))
    assert len(policy.rounds) == 23
    assert len(policy.rounds[0]) == count
    assert all(len(set(kinds)) == 1 for kinds in policy.rounds)
    assert sum(len(kinds) for kinds in policy.rounds) == sum(len(list(trial.completions())) for trial in trials)
    unsolved = sum(trial.solved_at != 0 for trial in trials)
    assert len(policy.rounds[7]) == unsolved  # the first reflection: solved trials have left
    assert set(policy.rounds[7]) == {REFLECT}


class FailingPolicy:
    async def complete(self, request: Request) -> Completion:
        raise InferenceError("the server is gone")


async def test_a_failed_trial_fails_the_benchmark_and_hangs_nobody(renderer: Renderer) -> None:
    envs = [ScriptedFactory().make(ScriptedConfig(), 7) for _ in range(3)]
    with pytest.raises(RunFailed, match="3 of 3 trials failed"):
        await play_batch(leases(3, 1), envs, FailingPolicy(), renderer, TrialLimits(0, 2048))
