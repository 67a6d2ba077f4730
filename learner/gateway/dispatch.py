"""Who plays what next: leases go out as long as an actor has room and the run has work.

While an evaluation is under way its plays come first, once a server holds its version, which the lease names; the room
that they leave is the pool's while the run trains. Actors are told every ready server: one that is missing from the
list is gone. The actor with the most room relative to its capacity is served first.

Every lease is journalled with its holder, so that a gateway that is started again keeps what actors are playing for
them, for `RETURN_BEATS` heartbeats. A key is *doubted* whose leases run out while nothing comes from it, or whose
trials fail one after the other: it loses what it holds, and gets one trial now and then until it delivers one that can
be used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lamer.common.messages import Lease, Role, Sampling, Servers
from lamer.common.records import Purpose, make_trial_id
from lamer.common.settings import GatewaySettings, TrialSettings
from lamer.learner.gateway.groups import Group
from lamer.learner.gateway.leases import LeaseTable
from lamer.learner.gateway.open_evaluation import OpenEvaluation
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.journal.entries import RestoredGroup

log = logging.getLogger("lamer.gateway")

RETURN_BEATS = 2
FAILURES_IN_A_ROW = 8
FAILING_SECONDS = 5.0
_UNDELIVERED = "nothing_delivered"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A key from which nothing good came: how often in a row that was found, and until when others go first.

    is_failing: its trials came back and could not be used; else they never came.
    """

    times: int
    until: float
    is_failing: bool


class Dispatcher:
    """Leases trials to actors. evaluation: the one under way. is_training: whether training trials are leased."""

    def __init__(
        self,
        run: str,
        trial: TrialSettings,
        gateway: GatewaySettings,
        pool: TrialPool,
        peers: PeerTable,
        link: Link,
        weights: Announcer,
    ) -> None:
        self._run = run
        self._trial = trial
        self._lease_seconds = gateway.lease_seconds
        self._return_seconds = RETURN_BEATS * gateway.heartbeat_seconds
        self._most = gateway.max_trials_per_actor
        self._pool = pool
        self._peers = peers
        self._link = link
        self._weights = weights
        self.leases = LeaseTable()
        self._delivered: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._doubts: dict[str, Doubt] = {}
        self.evaluation: OpenEvaluation | None = None
        self.is_training = False

    def fill(self, now: float) -> None:
        """Lease as much as actors have room for and the run has work for."""
        holders: dict[str, str] = {}
        while (actor := self._roomiest(now)) is not None and (lease := self._next_lease()) is not None:
            self.leases.grant(lease, actor.key, now)
            self._link.send(actor, lease)
            holders[lease.trial_id] = actor.key
        if holders:
            self._pool.journal.lease(holders)

    def restore(self, groups: Iterable[RestoredGroup], now: float) -> None:
        """Keep the slots of these groups that actors were playing when the gateway was away for those actors.

        The groups are in the pool already, and `slots_held` of them not among its waiting slots.
        """
        for group_id, slot in self.slots_held(groups):
            group = self._pool.groups.get(group_id)
            holder = self.leases.holder(self._pool.trial_id(group_id, slot))
            assert group is not None
            assert holder is not None
            self.leases.grant_again(self._training_lease(group, slot), holder, now, self._return_seconds)

    def slots_held(self, groups: Iterable[RestoredGroup]) -> frozenset[tuple[int, int]]:
        """(group id, slot) of these groups' trials that were leased and are not stored."""
        return frozenset(
            (group.group_id, slot)
            for group in groups
            for slot in set(range(self._pool.group_size)) - {entry.slot for entry in group.trials}
            if self.leases.holder(self._pool.trial_id(group.group_id, slot)) is not None
        )

    def greet(self, actor: Peer, now: float) -> None:
        """Tell an actor the servers, and again the leases that it holds: some may have been lost before its Hello."""
        if actor.hello.capacity > self._most:
            asked = (actor.hello.name, actor.hello.capacity, self._most)
            log.warning("%s offers to play %d trials at once and gets %d (gateway.max_trials_per_actor)", *asked)
        self.leases.renew(actor.key, now)
        self._link.send(actor, self._servers())
        for lease in self.leases.of(actor.key):
            self._link.send(actor, lease)

    def announce_servers(self) -> None:
        """Tell all actors which servers they may use."""
        self._link.broadcast(self._servers(), Role.ACTOR)

    def lost(self, actor: Peer, is_dead: bool) -> None:
        """Take back the leases of an actor that died, or left on purpose."""
        for lease in self.leases.release_all(actor.key):
            self.take_back(lease, "actor_died" if is_dead else "")

    def delivered(self, actor: Peer, now: float) -> None:
        """A trial came from an actor's key that can be used."""
        self._delivered[actor.client.name] = now
        self._failures.pop(actor.client.name, None)
        self._doubts.pop(actor.client.name, None)

    def failed(self, actor: Peer, now: float) -> None:
        """A trial that an actor's key held can't be used, whoever is to blame."""
        client = actor.client.name
        self._failures[client] += 1
        if self._failures[client] >= FAILURES_IN_A_ROW:
            self._doubt(client, now, FAILING_SECONDS, "", f"{self._failures[client]} trials in a row failed")

    def expire(self, now: float) -> None:
        """Take back the leases whose deadline has passed, and all of those whose key has delivered nothing since."""
        for granted in self.leases.expire(now):
            self.take_back(granted.lease, "" if granted.is_restored else "lease_expired")
            actor = self._peers.get(granted.holder)
            if actor is None or granted.is_restored:
                continue
            client = actor.client.name
            if self._delivered.get(client, -1.0) < granted.since:
                self._doubt(client, now, self._lease_seconds, _UNDELIVERED, "nothing was delivered")

    def _doubt(self, client: str, now: float, seconds: float, reason: str, why: str) -> None:
        """All leases of a key go to others. It is tried again with one trial: soon at first, later ever more rarely."""
        before = self._doubts.get(client)
        if before is not None and now < before.until:
            return  # of the same time
        times = 1 if before is None else before.times + 1
        self._doubts[client] = Doubt(times, now + 2 ** min(times - 1, 10) * seconds, is_failing=not reason)
        log.warning("of the key %s %s: others go first now", client, why)
        actors = self._peers.of_role(Role.ACTOR)
        is_alone = all(actor.client.name in self._doubts for actor in actors)
        for actor in actors if not (is_alone and self._doubts[client].is_failing) else ():
            if actor.client.name == client:
                for lease in self.leases.release_all(actor.key):
                    self.take_back(lease, reason)

    def take_back(self, lease: Lease, reason: str, outcome: str = "", tokens: int = 0) -> None:
        """A released lease was not played out, for `reason` ("": nobody is to blame); its slot is leased again."""
        if lease.purpose is Purpose.TRAIN:
            if reason:
                self._pool.fail(lease.group_id, lease.slot, reason, outcome or reason, tokens)
            else:
                self._pool.groups.return_slot(lease.group_id, lease.slot)
        elif self.evaluation is not None and lease.evaluated_version == self.evaluation.plan.policy_version:
            if reason:
                self.evaluation.fail(lease.group_id)
            else:
                self.evaluation.give_back(lease.group_id)

    def _servers(self) -> Servers:
        return Servers(self._weights.servers())

    def _roomiest(self, now: float) -> Peer | None:
        """Who gets the next trial."""
        actors = [actor for actor in self._peers.of_role(Role.ACTOR) if actor.is_reachable]
        doubted = self._doubts.keys()
        is_alone = all(actor.client.name in doubted for actor in actors)
        busy = {actor.client.name for actor in actors if self.leases.held_by(actor.key)} if doubted else set()
        room = [
            (1.0 - self.leases.held_by(actor.key) / min(actor.hello.capacity, self._most), actor)
            for actor in actors
            if self._may_have(actor.client.name, now, is_alone, actor.client.name in busy)
        ]
        share, actor = max(room, key=lambda pair: pair[0], default=(0.0, None))
        return actor if share > 0.0 else None

    def _may_have(self, client: str, now: float, is_alone: bool, is_busy: bool) -> bool:
        """A doubted key gets one trial at a time, when it is due or no others are there. Where all fail, all go on."""
        doubt = self._doubts.get(client)
        if doubt is None or (is_alone and doubt.is_failing):
            return True
        return not is_busy and (is_alone or now >= doubt.until)

    def _next_lease(self) -> Lease | None:
        lease = self._next_evaluation(self.evaluation) if self.evaluation is not None else None
        return lease if lease is not None else self._next_training()

    def _next_training(self) -> Lease | None:
        applied = self._weights.applied_version
        taken = self._pool.take_slot(applied) if self.is_training and applied is not None else None
        return self._training_lease(*taken) if taken is not None else None

    def _training_lease(self, group: Group, slot: int) -> Lease:
        trial = self._trial
        return Lease(
            trial_id=self._pool.trial_id(group.group_id, slot),
            group_id=group.group_id,
            slot=slot,
            purpose=Purpose.TRAIN,
            task=group.task,
            episodes=trial.episodes,
            memory=trial.memory,
            sampling=Sampling(
                trial.temperature, trial.top_p, trial.top_k, trial.max_response_tokens, trial.max_reflection_tokens
            ),
            seconds=self._lease_seconds,
            min_version=min(group.admitted_version, self._weights.applied_version or 0),
        )

    def _next_evaluation(self, evaluation: OpenEvaluation) -> Lease | None:
        plan = evaluation.plan
        play = evaluation.take() if self._weights.servers(plan.policy_version) else None
        if play is None:
            return None
        return Lease(
            trial_id=make_trial_id(self._run, Purpose.EVALUATE, play, plan.policy_version),
            group_id=play,
            slot=plan.policy_version,
            purpose=Purpose.EVALUATE,
            task=plan.task(play),
            episodes=plan.episodes,
            memory=plan.memory,
            sampling=plan.sampling,
            seconds=self._lease_seconds,
        )
