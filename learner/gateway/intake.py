"""What happens to a trial that an actor sends: checked, journalled, acknowledged; or kept in quarantine; or played
again.

Only a trial's holder (`learner.gateway.leases`) can deliver it or give it up: what anybody else says about it is
refused unread. A trial is acknowledged once the journal's commit is on disk. One that failed for a reason of ours is
acknowledged at once, since nothing of it is kept: its slot is leased again. A prompt that outgrew the context would do
so again, so its group is dropped. A trial that can't be what was leased (`learner.gateway.checking`) goes to
quarantine/ in the run's folder.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from lamer.common.codec import CodecError, decode_trial, encode_trial
from lamer.common.messages import Ack, Nack, NackKind, TrialDone, TrialFailed
from lamer.common.records import EpisodeStatus, Purpose, Trial, make_trial_id
from lamer.common.text import one_line
from lamer.learner.gateway.checking.quarantine import Quarantine
from lamer.learner.gateway.checking.rules import TrialRules, with_logprobs_at_most_zero
from lamer.learner.gateway.dispatch import Dispatcher
from lamer.learner.gateway.groups import Acceptance
from lamer.learner.gateway.open_evaluation import OpenEvaluation
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.status import RateWindow
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.journal.entries import TrialEntry
from lamer.learner.measuring.counting import is_faulty

log = logging.getLogger("lamer.gateway")

LONGEST_REASON = 2000


class Intake:
    """Takes trials in. trials, tokens: accepted for training since the gateway started."""

    def __init__(
        self,
        run: str,
        rules: TrialRules,
        quarantine: Quarantine,
        group_size: int,
        pool: TrialPool,
        dispatcher: Dispatcher,
        weights: Announcer,
        peers: PeerTable,
        link: Link,
        hearing: Callable[[], float],
    ) -> None:
        """hearing: the gateway's time, by which leases run out."""
        self._run = run
        self._rules = rules
        self._quarantine = quarantine
        self._weights = weights
        self._group_size = group_size
        self._pool = pool
        self._dispatcher = dispatcher
        self._peers = peers
        self._link = link
        self._hearing = hearing
        self._to_acknowledge: defaultdict[str, set[str]] = defaultdict(set)
        self._clock = asyncio.get_running_loop().time
        self.rates = RateWindow(self._clock())
        self.trials = 0
        self.tokens = 0

    def done(self, actor: Peer, message: TrialDone) -> None:
        """A trial arrived."""
        if not self._is_held(actor, message):
            return
        try:
            trial = decode_trial(message.body)
            problem = self._mismatch(message, trial) or self._rules.problem(trial, self._weights.newest_version)
        except CodecError as error:
            problem = str(error)
        problem = one_line(problem, LONGEST_REASON)
        granted = self._dispatcher.leases.release(message.trial_id)
        if not problem and (trial.is_trainable if trial.purpose is Purpose.TRAIN else not is_faulty(trial)):
            self._dispatcher.delivered(actor, self._hearing())
        else:
            self._dispatcher.failed(actor, self._hearing())
        if problem:
            self._quarantine.keep(message, problem)
            self._link.send(actor, Nack(message.trial_id, NackKind.INVALID, problem))
            if granted is not None:
                self._dispatcher.take_back(granted.lease, "invalid_trial", problem)
        elif trial.purpose is Purpose.EVALUATE:
            self._take_evaluated(actor, message, trial, granted is not None)
        elif trial.is_trainable:
            acceptance = self._pool.groups.accept(trial.group_id, trial.slot)
            self._answer(actor, message, trial, acceptance)
            if acceptance is Acceptance.NEW:
                self.trials += 1
                self.tokens += trial.response_tokens
        else:
            self._take_failed(trial, granted is not None)
            self._link.send(actor, Ack((trial.trial_id,)))

    def failed(self, actor: Peer, message: TrialFailed) -> None:
        """An actor gave a trial up."""
        if not self._is_held(actor, message):
            return
        granted = self._dispatcher.leases.release(message.trial_id)
        if granted is not None:
            reason = one_line(message.reason, LONGEST_REASON)
            log.warning("%s failed on %s: %s", message.trial_id, actor.hello.name, reason)
            self._dispatcher.take_back(granted.lease, "trial_failed", reason)
            self._dispatcher.failed(actor, self._hearing())
        self._link.send(actor, Ack((message.trial_id,)))

    def stored(self, entries: Sequence[TrialEntry]) -> None:
        """These trials are on disk: count them into their groups, and acknowledge them, one message an actor."""
        durable: defaultdict[str, list[str]] = defaultdict(list)
        for entry in entries:
            if entry.purpose is Purpose.TRAIN:
                self._pool.groups.store(entry)
                self._pool.has_changed = True
            elif (evaluation := self._evaluation_of(entry.evaluated_version)) is not None:
                evaluation.store(entry.group_id)
            for key in self._to_acknowledge.pop(entry.trial_id, ()):
                durable[key].append(entry.trial_id)
        for key, trial_ids in durable.items():
            actor = self._peers.get(key)
            if actor is not None:
                self._link.send(actor, Ack(tuple(trial_ids)))

    def _is_held(self, actor: Peer, message: TrialDone | TrialFailed) -> bool:
        """Whether an actor may say something about a trial; it is told if not. Nothing of what it says is read then."""
        holder = self._dispatcher.leases.holder(message.trial_id)
        if holder == actor.key:
            return True
        if holder is None:
            kind, reason = NackKind.INVALID, "this trial was never leased"
        else:
            kind, reason = NackKind.STALE, "this trial is another actor's"
        sender = f"{actor.hello.name} (key {actor.client.name})"
        log.warning("%s from %s refused: %s", type(message).__name__, sender, reason)
        self._link.send(actor, Nack(message.trial_id, kind, reason))
        return False

    def _mismatch(self, message: TrialDone, trial: Trial) -> str:
        """Why a trial can't be one of this run's leases, "" if it can."""
        expected = make_trial_id(self._run, trial.purpose, trial.group_id, trial.slot)
        if not trial.trial_id == message.trial_id == expected:
            return f"the ids disagree: {message.trial_id}, {trial.trial_id} and {expected}"
        if trial.purpose is Purpose.TRAIN:
            if not 0 <= trial.slot < self._group_size:
                return f"slot {trial.slot} of groups of {self._group_size}"
            group = self._pool.groups.get(trial.group_id)
            if group is not None and group.task != trial.task:
                return f"played {trial.task}, leased was {group.task}"
        elif (evaluation := self._evaluation_of(trial.evaluated_version)) is not None:
            asked = evaluation.plan.task(trial.group_id)
            if trial.task != asked:
                return f"played {trial.task} as play {trial.group_id} of an evaluation, which asked for {asked}"
        return ""

    def _evaluation_of(self, policy_version: int | None) -> OpenEvaluation | None:
        """The evaluation under way, if it is of this version."""
        evaluation = self._dispatcher.evaluation
        return evaluation if evaluation is not None and evaluation.plan.policy_version == policy_version else None

    def _take_failed(self, trial: Trial, is_leased: bool) -> None:
        """A trial that can't be trained; counted once, by the lease that it ends."""
        statuses = [episode.status for episode in trial.episodes if not episode.status.is_played_out]
        reason = statuses[-1].value if statuses else "no_episodes"
        tokens = trial.response_tokens
        if EpisodeStatus.CONTEXT_OVERFLOW in statuses:
            self._pool.drop(trial.group_id, trial.slot, reason, reason, tokens)
        elif is_leased:
            self._pool.fail(trial.group_id, trial.slot, reason, reason, tokens)

    def _take_evaluated(self, actor: Peer, message: TrialDone, trial: Trial, is_leased: bool) -> None:
        evaluation = self._evaluation_of(trial.evaluated_version)
        if evaluation is None:
            self._link.send(actor, Nack(trial.trial_id, NackKind.STALE, "this evaluation is over"))
            return
        is_of_version = all(
            span.version == evaluation.plan.policy_version
            for completion in trial.completions()
            for span in completion.versions
        )
        if is_faulty(trial) or not is_of_version:
            if is_leased:
                evaluation.fail(trial.group_id)
            self._link.send(actor, Ack((trial.trial_id,)))
        else:
            self._answer(actor, message, trial, evaluation.accept(trial.group_id, trial))

    def _answer(self, actor: Peer, message: TrialDone, trial: Trial, acceptance: Acceptance) -> None:
        trial_id = trial.trial_id
        if acceptance is Acceptance.NEW:
            tokens = trial.response_tokens
            none_played = trial.evaluated_version or 0
            oldest = min((completion.oldest_version for completion in trial.completions()), default=none_played)
            entry = TrialEntry(trial_id, trial.group_id, trial.slot, trial.purpose, oldest, tokens, trial.solved_at)
            self._to_acknowledge[trial_id].add(actor.key)
            kept = with_logprobs_at_most_zero(trial)
            self._pool.journal.store(entry, message.body if kept is trial else encode_trial(kept))
            self.rates.add(self._clock(), tokens)
        elif acceptance is Acceptance.LATE:
            self._link.send(actor, Nack(trial_id, NackKind.STALE, "its group was given up"))
        elif trial_id in self._to_acknowledge:
            self._to_acknowledge[trial_id].add(actor.key)
        else:
            self._link.send(actor, Ack((trial_id,)))
