"""Rollout in lock step, as the reference implementation plays: no request of a turn is sent before all are ready.

A batch of trials moves through positions: the turns of the first episode, the reflection, the turns of the second and
so on. At each position every unfinished trial that has a request there sends it at the same moment, and nobody moves on
before the slowest response has come. A trial whose episode ended early waits for the next stage; a solved trial leaves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.actors.policy import Policy, Request, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.trial import TrialLimits, play_trial
from lamer.common.errors import RunFailed
from lamer.common.messages import Lease
from lamer.common.records import Completion, Trial
from lamer.envs.base import Env


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a batch is: even stages are episodes, odd ones the reflections between them."""

    stage: int
    turn: int

    def after(self, kind: RequestKind) -> Position:
        """The position of a trial's next request, given that it is of this kind."""
        is_reflecting = self.stage % 2 == 1
        if (kind is RequestKind.REFLECT) == is_reflecting:
            return Position(self.stage, self.turn + 1)
        return Position(self.stage + 1, 0)


START = Position(0, -1)


class Seat:
    """One trial's place in the batch: a `Policy` whose every request waits for the batch."""

    def __init__(self, barrier: LockStep) -> None:
        self._barrier = barrier
        self._position = START

    async def complete(self, request: Request) -> Completion:
        """The response, asked for together with those of the other trials at this position."""
        self._position = self._position.after(request.kind)
        return await self._barrier.complete(self, self._position, request)

    def leave(self) -> None:
        """The trial is over: nobody waits for it any more."""
        self._barrier.leave(self)


SENDS_A_TURN = 16
"""Requests started in one turn of the event loop, so that the first is on its way before the last is encoded."""


class LockStep:
    """The barrier of one batch around the policy that answers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seats: set[Seat] = set()
        self._ready: dict[Seat, tuple[Position, asyncio.Event]] = {}
        self._going: deque[asyncio.Event] = deque()

    def join(self) -> Seat:
        """A seat for one more trial. All join before the first request."""
        seat = Seat(self)
        self._seats.add(seat)
        return seat

    async def complete(self, seat: Seat, position: Position, request: Request) -> Completion:
        """Wait until every seat has a request ready and this one is among the earliest, then send it."""
        go = asyncio.Event()
        self._ready[seat] = (position, go)
        self._release()
        await go.wait()
        return await self._policy.complete(request)

    def leave(self, seat: Seat) -> None:
        """Take a seat out."""
        self._seats.discard(seat)
        self._release()

    def _release(self) -> None:
        """When all seats are ready, let those at the earliest position go."""
        if not self._seats or len(self._ready) < len(self._seats):
            return
        first = min(position for position, _ in self._ready.values())
        for seat, (position, go) in list(self._ready.items()):
            if position == first:
                del self._ready[seat]
                self._going.append(go)
        self._go()

    def _go(self) -> None:
        """Start the next requests of those that may go, and the others in later turns of the event loop."""
        for _ in range(min(SENDS_A_TURN, len(self._going))):
            self._going.popleft().set()
        if self._going:
            asyncio.get_running_loop().call_soon(self._go)


async def play_batch(
    leases: Sequence[Lease], envs: Sequence[Env], policy: Policy, renderer: Renderer, limits: TrialLimits
) -> tuple[Trial, ...]:
    """Play one batch in lock step; the trials in the order of their leases.

    Raises:
        RunFailed: a trial ended for another reason than the rules of its environment.
    """
    barrier = LockStep(policy)
    seats = [barrier.join() for _ in leases]

    async def play(lease: Lease, env: Env, seat: Seat) -> Trial:
        try:
            return await play_trial(lease, env, seat, renderer, limits, actor="lock step")
        finally:
            seat.leave()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(play(lease, env, seat)) for lease, env, seat in zip(leases, envs, seats, strict=True)
        ]
    trials = tuple(task.result() for task in tasks)
    failed = [trial.trial_id for trial in trials if not trial.is_trainable]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(trials)} trials failed, {failed[0]} among them: its log line says why")
    return trials
