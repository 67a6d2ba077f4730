"""The trials that an actor runs: leases are taken, played, and delivered until the gateway acknowledges them.

    Player        what every trial is played with; a lease in, `TrialDone` or `TrialFailed` out
    TrialRunner   obeys the gateway's messages. Owns the running trials (a task each, in one task group), the leases
                  that wait for a free slot, and the outbox of finished trials (`actors.outbox`)

A trial in which a server or the environment failed is reported as failed, so that its slot is leased again; one whose
prompt outgrew the context is delivered as it is, for it would do so again. A lease past its deadline is abandoned
without a word: the gateway counts too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from lamer.actors.episode import Stage
from lamer.actors.inference import InferenceClient, RoutedPolicy
from lamer.actors.outbox import RETRY_SECONDS, Outbox
from lamer.actors.rendering import Renderer
from lamer.actors.resuming import Endings
from lamer.actors.routing import Affinity, Router
from lamer.actors.trial import TrialLimits, TrialPlay
from lamer.common.codec import MAX_MESSAGE_BYTES, encode_trial
from lamer.common.errors import BadInput, LamerError
from lamer.common.liveness.guard import surviving
from lamer.common.liveness.loop_lag import LoopLag
from lamer.common.messages import (
    Ack,
    AnyMessage,
    Lease,
    Nack,
    NackKind,
    Servers,
    Shutdown,
    TrialDone,
    TrialFailed,
    Welcome,
)
from lamer.common.records import EpisodeStatus
from lamer.common.session import Session
from lamer.common.text import describe_error
from lamer.envs import registry
from lamer.envs.results import closing_env

log = logging.getLogger("lamer.actor")

FAILURE_PAUSE_SECONDS = 1.0
"""How long a slot rests after a failed trial, so that a broken server is not asked at full speed."""
_ENVELOPE_BYTES = 4096
_FAULTS = (EpisodeStatus.INFERENCE_ERROR, EpisodeStatus.ENVIRONMENT_ERROR)


@dataclass(frozen=True, slots=True)
class Player:
    """What every trial of this process is played with."""

    name: str
    renderer: Renderer
    limits: TrialLimits
    client: InferenceClient
    router: Router

    async def play(self, lease: Lease) -> TrialDone | TrialFailed:
        """Play a lease's trial. What it raises is a defect of ours or of the environment."""
        affinity = Affinity(f"{lease.purpose.value}/{lease.group_id}", lease.evaluated_version, lease.min_version)
        endings = Endings(self.renderer.decode_all, self.renderer.end_ids)
        policy = RoutedPolicy(self.client, self.router, endings, affinity)
        with closing_env(registry.make_env(lease.task)) as env:
            play = TrialPlay(Stage(lease, env, policy, self.renderer, self.limits), self.name)
            trial = await play.run()
        last = trial.episodes[-1]
        if last.status in _FAULTS:
            return TrialFailed(lease.trial_id, f"episode {last.index}: {last.status.value}: {play.failure}")
        return TrialDone(lease.trial_id, encode_trial(trial, MAX_MESSAGE_BYTES - _ENVELOPE_BYTES))


@dataclass(slots=True)
class AcceptedLease:
    """A lease in our hands: waiting for a free slot, then running. deadline: loop time at which it expires."""

    lease: Lease
    deadline: float
    timeout: asyncio.Timeout | None = None

    def extend(self, deadline: float) -> bool:
        """The gateway gave the same lease again; False if its trial is being abandoned already."""
        self.deadline = deadline
        if self.timeout is not None and self.timeout.expired():
            return False
        if self.timeout is not None:
            self.timeout.reschedule(deadline)
        return True


class TrialRunner:
    """Plays what the gateway leases, at most `trials` trials at once."""

    def __init__(self, session: Session, player: Player, trials: int) -> None:
        welcome = session.welcome
        self._session = session
        self._player = player
        self._trials = trials
        self._identity = (welcome.run, welcome.config_hash)
        self._outbox = Outbox(welcome.credit_trials, welcome.credit_bytes)
        self._is_due = asyncio.Event()
        self._waiting: dict[str, AcceptedLease] = {}
        self._running: dict[str, AcceptedLease] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivered = 0

    async def run(self) -> int:
        """Work until the gateway says Shutdown; the exit code that it gives.

        Raises:
            Missing: the learner is gone. BadInput: another run took its place.
        """
        try:
            async with asyncio.TaskGroup() as group:
                resender = group.create_task(self._resend(), name="resender")
                lag = group.create_task(LoopLag(log).watch(), name="loop lag")
                shutdown = await self._obey(group)
                for task in (resender, lag, *self._tasks):
                    task.cancel()
        except* LamerError as errors:
            raise errors.exceptions[0] from None
        log.info("the run is over (%s); %d trials were delivered", shutdown.reason, self._delivered)
        return shutdown.exit_code

    async def _obey(self, group: asyncio.TaskGroup) -> Shutdown:
        """Do what the gateway says until it says Shutdown."""
        while True:
            message = await self._session.receive()
            if isinstance(message, Shutdown):
                return message
            with surviving(log, message, "the learner"):
                self._handle(message)
            self._fill(group)

    def _handle(self, message: AnyMessage) -> None:
        match message:
            case Lease():
                self._take(message)
            case Servers():
                self._player.router.replace(message.servers)
            case Ack():
                self._delivered += sum(self._outbox.remove(trial_id) for trial_id in message.trial_ids)
            case Nack():
                self._take_nack(message)
            case Welcome():
                self._greet(message)
            case _:
                log.warning("the gateway sent an actor a %s, which means nothing here", type(message).__name__)

    def _take(self, lease: Lease) -> None:
        """Hold a lease. One that is known was given again because the connection or the gateway was away."""
        now = asyncio.get_running_loop().time()
        accepted = self._running.get(lease.trial_id)
        if lease.trial_id in self._outbox:
            self._outbox.set_due(lease.trial_id, now)
            self._is_due.set()
        elif accepted is None or not accepted.extend(now + lease.seconds):
            self._waiting[lease.trial_id] = AcceptedLease(lease, now + lease.seconds)

    def _take_nack(self, nack: Nack) -> None:
        log.warning("the gateway did not accept %s (%s): %s", nack.trial_id, nack.kind.value, nack.reason)
        if nack.kind is NackKind.RETRY:
            self._outbox.set_due(nack.trial_id, asyncio.get_running_loop().time() + RETRY_SECONDS)
            self._is_due.set()
        else:
            self._outbox.remove(nack.trial_id)

    def _greet(self, welcome: Welcome) -> None:
        """Go on after a reconnection, to the same gateway or to one that took its place in the same run."""
        if (welcome.run, welcome.config_hash) != self._identity:
            raise BadInput(f"the learner plays run {welcome.run!r} with another configuration: start this actor again")
        self._outbox.credit_trials, self._outbox.credit_bytes = welcome.credit_trials, welcome.credit_bytes
        self._outbox.set_all_due(asyncio.get_running_loop().time())
        self._is_due.set()

    def _fill(self, group: asyncio.TaskGroup) -> None:
        """Start waiting leases while there are free slots and room for what they will give."""
        while len(self._running) < self._trials and not self._outbox.is_full:
            trial_id = next((key for key in self._waiting if key not in self._running), None)
            if trial_id is None:
                break
            self._running[trial_id] = accepted = self._waiting.pop(trial_id)
            task = group.create_task(self._serve(accepted, group), name=trial_id)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._session.in_flight = len(self._running)

    async def _serve(self, accepted: AcceptedLease, group: asyncio.TaskGroup) -> None:
        trial_id = accepted.lease.trial_id
        message: TrialDone | TrialFailed | None = None
        try:
            async with asyncio.timeout_at(accepted.deadline) as accepted.timeout:
                message = await self._player.play(accepted.lease)
        except Exception as error:  # one trial's defect is reported to the gateway and does not end the others
            if accepted.timeout is not None and accepted.timeout.expired():
                log.warning("%s is abandoned: its lease of %g s has ended", trial_id, accepted.lease.seconds)
            else:
                log.exception("%s failed", trial_id)
                message = TrialFailed(trial_id, describe_error(error))
        accepted.timeout = None
        if isinstance(message, TrialDone):
            self._outbox.add(message, asyncio.get_running_loop().time())
            self._is_due.set()
        if isinstance(message, TrialFailed):
            await asyncio.sleep(FAILURE_PAUSE_SECONDS)
        if message is not None:
            await self._session.send(message)
        del self._running[trial_id]
        self._fill(group)

    async def _resend(self) -> None:
        """Send what was not acknowledged in time, again and again."""
        clock = asyncio.get_running_loop().time
        while True:
            for message in self._outbox.take_due(clock()):
                await self._session.send(message)
            self._is_due.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._outbox.next_due()):
                    await self._is_due.wait()
