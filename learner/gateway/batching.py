"""The gateway's side of the trainer: batches out, policy versions in.

The trainer asks for a batch naming the version it holds, which is that of the batch before; its weights may be
announced later than that. A batch is cut as soon as the pool allows, claimed in the journal, and named to the trainer
once the claim is on disk; a repeated question gets the same batch again. A trainer
that comes back holding an earlier version has been restarted from a checkpoint: claims after its next batch return to
stored, the servers go back to its version, and training goes on from there. Groups on which it failed `MOST_FAILURES`
times are set aside by name, and the next batch is cut without them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import RunFailed
from lamer.common.messages import (
    Batch,
    BatchFailed,
    BatchRequest,
    Checkpointed,
    Published,
    Role,
    Shutdown,
    WeightAnnouncement,
)
from lamer.common.records import group_of
from lamer.common.text import one_line
from lamer.learner.gateway.groups import Cut
from lamer.learner.gateway.leases import LeaseTable
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.pool import TrialPool
from lamer.learner.gateway.status import BatchFigures
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.journal.entries import RestoredGroup

log = logging.getLogger("lamer.gateway")

MOST_FAILURES = 2
MOST_SET_ASIDE = 3
"""So many batches in a row that can't be trained are no fault of the batches."""
_LONGEST_REASON = 1000


@dataclass(frozen=True, slots=True)
class _Wish:
    """A trainer that holds `version` waits for a batch, since loop time `since`."""

    trainer: Peer
    version: int
    since: float


class Batcher:
    """Serves the trainer. finished: set when the trainer holds the run's last version and has reported everything.

    is_of_stored_trials: whether the last batch holds nothing but trials that were played before the run was resumed.
    """

    def __init__(
        self,
        updates: int,
        pool: TrialPool,
        leases: LeaseTable,
        weights: Announcer,
        peers: PeerTable,
        link: Link,
        folders: tuple[Path, ...],
    ) -> None:
        """folders: published weights must lie in one of them."""
        self._updates = updates
        self._pool = pool
        self._leases = leases
        self._weights = weights
        self._peers = peers
        self._link = link
        self._folders = tuple(folder.resolve() for folder in folders)
        self._clock = asyncio.get_running_loop().time
        self._wanted: _Wish | None = None
        self._cut_step = 0
        self.wait_seconds = 0.0
        self.figures = BatchFigures()
        self.staleness_max = 0
        self.is_of_stored_trials = False
        self._restored: frozenset[str] = frozenset()
        self._failures: Counter[int] = Counter()
        self._set_aside: list[str] = []
        self._highest_published = 0
        self.finished = asyncio.Event()

    def begin_at(self, step: int, groups: Sequence[RestoredGroup]) -> None:
        """Go on from a checkpoint of update `step` with these groups."""
        self._restored = frozenset(entry.trial_id for group in groups for entry in group.trials)
        self._cut_step = self._highest_published = step
        self._pool.trained_from = step

    def published(self, message: Published) -> None:
        """The trainer wrote new weights: announce them to all hosts, if they lie where the run's weights do."""
        if self.finished.is_set():
            return
        path = (self._folders[0] / message.path).resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            log.error("policy version %d is not announced: %s is not in %s", message.version, path, self._folders[0])
            return
        if message.version > self._highest_published:
            self._highest_published = message.version
            self._set_aside.clear()
        self._weights.announce(WeightAnnouncement(message.version, str(path), message.files))
        self._announce(message.version)

    async def take(self, trainer: Peer, message: BatchRequest | BatchFailed) -> None:
        """The trainer wants a batch, or could not train on one.

        Raises:
            RunFailed: too many batches in a row were set aside.
        """
        if isinstance(message, BatchRequest):
            await self.requested(trainer, message)
        else:
            await self.failed(message)

    async def requested(self, trainer: Peer, message: BatchRequest) -> None:
        """The trainer waits for the batch after `message.policy_version`."""
        version = message.policy_version
        if self.finished.is_set():
            return
        if version > self._pool.trained_from and version == self._cut_step:
            self._pool.trained_from = version  # its weights are still being written
        elif version > self._pool.trained_from:
            reason = f"the trainer holds policy version {version}, which the gateway never got: go on from a checkpoint"
            self._link.send(trainer, Shutdown(reason, exit_code=1))
            return
        if version < self._pool.trained_from and self._weights.go_back(version):
            self._announce(version)
        if version + 1 < self._cut_step:
            await self._go_back_to(version + 1)
        if version + 1 == self._cut_step:
            trial_ids = await self._pool.journal.claimed(self._cut_step)
            self._link.send(trainer, Batch(self._cut_step, version, trial_ids))
        elif version >= self._updates:
            self.finished.set()
        else:
            self._wanted = _Wish(trainer, version, self._clock())
            self._pool.has_changed = True

    async def failed(self, message: BatchFailed) -> None:
        """The trainer could not train on the batch that was cut last; it goes back to a checkpoint and asks again.

        Raises:
            RunFailed: `MOST_SET_ASIDE` batches in a row were set aside.
        """
        step, reason = message.step, one_line(message.reason, _LONGEST_REASON)
        if step != self._cut_step:
            log.warning("update %d, which is not the last batch, failed: %s", step, reason)
            return
        groups = sorted({group_of(trial_id) for trial_id in await self._pool.journal.claimed(step)})
        self._failures.update(groups)
        bad = [group_id for group_id in groups if self._failures[group_id] >= MOST_FAILURES]
        log.error("the trainer failed on the batch of update %d, groups %s: %s", step, groups, reason)
        if not bad:
            return
        await self._begin_again(step - 1)
        for group_id in bad:
            self._pool.set_aside(group_id)
        log.error("groups %s are set aside: the trainer failed on them %d times", bad, MOST_FAILURES)
        self._set_aside.append(f"update {step}, groups {', '.join(map(str, bad))}")
        if len(self._set_aside) >= MOST_SET_ASIDE:
            raise RunFailed(
                f"the trainer failed {MOST_FAILURES} times on each of {len(self._set_aside)} batches in a row "
                f"({'; '.join(self._set_aside)}), the last time: {reason}. Their trials are in the journal as dropped: "
                f"`lamer inspect` shows them. Mend the cause and go on with --resume"
            )

    def try_cut(self, training_since: float) -> None:
        """Cut the batch that the trainer waits for, if the pool has changed and allows one."""
        if self._wanted is None or not self._pool.has_changed:
            return
        self._pool.has_changed = False
        wish = self._wanted
        cut = self._pool.groups.cut(wish.version)
        for group in cut.stale:
            self._pool.note_stale(group)
        if cut.groups:
            self._wanted = None
            self.wait_seconds = self._clock() - max(wish.since, training_since)
            self._claim(cut, wish)

    def checkpointed(self, message: Checkpointed) -> None:
        """A durable checkpoint covers every batch up to `message.step`; an interrupted trainer saves more than it
        published.
        """
        self._pool.trained_from = max(self._pool.trained_from, message.step)
        self._pool.journal.mark_trained(message.step)

    def lost(self, trainer: Peer) -> None:
        """A trainer left or died: what it waits for is not cut."""
        if self._wanted is not None and self._wanted.trainer is trainer:
            self._wanted = None

    def _claim(self, cut: Cut, wish: _Wish) -> None:
        version = wish.version
        entries = [entry for group in cut.groups for entry in group.trials.values()]
        self.figures = BatchFigures.of(entries, version)
        self.is_of_stored_trials = all(entry.trial_id in self._restored for entry in entries)
        self.staleness_max = max(self.staleness_max, self.figures.age_max)
        self._pool.drops.in_a_row = 0
        self._cut_step = version + 1
        batch = Batch(version + 1, version, tuple(sorted(entry.trial_id for entry in entries)))
        claim = self._pool.journal.claim(batch.step, batch.trial_ids)

        def tell(done: asyncio.Future[object]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._link.send(wish.trainer, batch)

        claim.add_done_callback(tell)

    async def _go_back_to(self, step: int) -> None:
        log.warning(
            "the trainer went back to policy version %d: claims after update %d are stored again", step - 1, step
        )
        await self._begin_again(step)

    async def _begin_again(self, step: int) -> None:
        """Return every claim after update `step` to stored."""
        state = await self._pool.journal.resume(step)
        playing = self._leases.training_slots()
        self._pool.groups.restore(state.groups, state.trained, state.next_group_id, playing, updates=step)
        self._cut_step = step

    def _announce(self, version: int) -> None:
        self._pool.trained_from = version
        if self._weights.current is not None:
            self._link.broadcast(self._weights.current, Role.HOST)
