"""Who plays what next: leases go out as long as an actor has room and the run has work.

While an evaluation is under way its plays come first, once a server holds its version, which the lease names; the room
that they leave is the pool's while the run trains. Actors are told every ready server: one that is missing from the
list is gone. The actor with the most room relative to its capacity is served first.
"""

from __future__ import annotations

from lamer.common.messages import Lease, Role, Sampling, Servers
from lamer.common.records import Purpose, make_trial_id
from lamer.common.settings import TrialSettings
from lamer.learner.gateway.leases import LeaseTable
from lamer.learner.gateway.open_evaluation import OpenEvaluation
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.weights.announcing import Announcer


class Dispatcher:
    """Leases trials to actors. evaluation: the one under way. is_training: whether training trials are leased."""

    def __init__(
        self,
        run: str,
        trial: TrialSettings,
        lease_seconds: float,
        pool: TrialPool,
        peers: PeerTable,
        link: Link,
        weights: Announcer,
    ) -> None:
        self._run = run
        self._trial = trial
        self._lease_seconds = lease_seconds
        self._pool = pool
        self._peers = peers
        self._link = link
        self._weights = weights
        self.leases = LeaseTable()
        self.evaluation: OpenEvaluation | None = None
        self.is_training = False

    def fill(self, now: float) -> None:
        """Lease as much as actors have room for and the run has work for."""
        while (actor := self._roomiest()) is not None and (lease := self._next_lease()) is not None:
            self.leases.grant(lease, actor.key, now)
            self._link.send(actor, lease)

    def greet(self, actor: Peer) -> None:
        """Tell an actor the servers, and again the leases that it holds: some may have been lost before its Hello."""
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

    def expire(self, now: float) -> None:
        """Take back the leases whose deadline has passed."""
        for lease in self.leases.expire(now):
            self.take_back(lease, "lease_expired")

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

    def _roomiest(self) -> Peer | None:
        room = [
            (1.0 - self.leases.held_by(actor.key) / actor.hello.capacity, actor)
            for actor in self._peers.of_role(Role.ACTOR)
            if actor.is_reachable
        ]
        share, actor = max(room, key=lambda pair: pair[0], default=(0.0, None))
        return actor if share > 0.0 else None

    def _next_lease(self) -> Lease | None:
        lease = self._next_evaluation(self.evaluation) if self.evaluation is not None else None
        return lease if lease is not None else self._next_training()

    def _next_training(self) -> Lease | None:
        applied = self._weights.applied_version
        taken = self._pool.take_slot(applied) if self.is_training and applied is not None else None
        if taken is None:
            return None
        group, slot = taken
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
            min_version=min(group.admitted_version, applied or 0),
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
