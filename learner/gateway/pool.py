"""The training trials of a run: the groups in memory, their journal, and what is counted when a group is dropped."""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.errors import RunFailed
from lamer.common.records import Purpose, Task, make_trial_id, training_seed
from lamer.common.settings import BatchSettings
from lamer.learner.gateway.admission import Admission
from lamer.learner.gateway.groups import Group, GroupTable
from lamer.learner.gateway.status import DropCounts
from lamer.learner.journal.entries import Drop
from lamer.learner.journal.writer import Journal

_DROPS_IN_A_ROW = 16


@dataclass(frozen=True, slots=True)
class TrainingTasks:
    """The tasks that a run trains on. env_config: the environment's options as canonical JSON. seed: of the run."""

    env: str
    env_config: str
    seed: int

    def task(self, group_id: int) -> Task:
        """The one task of a group's trials."""
        return Task(self.env, self.env_config, training_seed(self.seed, group_id))


class TrialPool:
    """Keeps `groups` and `journal` in step. trained_from: the policy version that the trainer holds.

    group_size: trials in a group.

    has_changed: a group completed or left since the last cut was tried.
    """

    def __init__(
        self, run: str, batch: BatchSettings, slot_retries: int, tasks: TrainingTasks, journal: Journal
    ) -> None:
        self._run = run
        self.group_size = batch.group_size
        self.journal = journal
        self.drops = DropCounts()
        self.trained_from = 0
        self.has_changed = True
        self._last_failure = ""
        self._drop_limit = _DROPS_IN_A_ROW + 4 * batch.groups
        self.admission = Admission(batch.groups, batch.max_staleness, batch.updates)
        self.groups = GroupTable(self.admission, batch.group_size, slot_retries, batch.on_stale == "drop", tasks.task)

    def trial_id(self, group_id: int, slot: int) -> str:
        """The key of a training trial of this run."""
        return make_trial_id(self._run, Purpose.TRAIN, group_id, slot)

    def take_slot(self, applied: int) -> tuple[Group, int] | None:
        """The next slot to lease while servers hold `applied` or newer; admits a group if there is room for one."""
        if not self.admission.may_lease(applied, self.trained_from):
            return None
        taken = self.groups.take_slot(applied)
        if taken is None:
            group = self.groups.admit(applied)
            if group is None:
                return None
            self.journal.admit(group.group_id, group.admitted_version)
            taken = self.groups.take_slot(applied)
        return taken

    def fail(self, group_id: int, slot: int, reason: str, outcome: str, tokens: int = 0) -> None:
        """A slot's trial failed for a reason of ours: lease it again, or drop its group after too many failures."""
        if not self.groups.fail(group_id, slot):
            self.drop(group_id, slot, reason, outcome, tokens)

    def drop(self, group_id: int, slot: int, reason: str, outcome: str, tokens: int = 0) -> None:
        """Give a group up because of one slot's trial, which ended as `outcome` after `tokens` response tokens."""
        group = self.groups.drop(group_id)
        if group is not None:
            last = Drop(group_id, self.trial_id(group_id, slot), reason, outcome, tokens, self.trained_from)
            said = reason if outcome == reason else f"{reason}: {outcome}"
            self._last_failure = f"{last.trial_id}, {said}"
            self._note_drop(group, reason, (last,))

    def note_stale(self, group: Group) -> None:
        """A cut found this group too old, and took it off the table."""
        self._note_drop(group, "stale", ())

    def set_aside(self, group_id: int) -> None:
        """Give a group up that the trainer failed on again and again."""
        group = self.groups.drop(group_id)
        if group is not None:
            self._note_drop(group, "batch_failed", ())

    def _note_drop(self, group: Group, reason: str, failed: tuple[Drop, ...]) -> None:
        played = tuple(
            Drop(
                group.group_id,
                entry.trial_id,
                reason,
                "unsolved" if entry.solved_at is None else "solved",
                entry.response_tokens,
                self.trained_from,
            )
            for entry in group.trials.values()
        )
        self.journal.drop(group.group_id, played + failed)
        self.drops.add(reason, len(played + failed), sum(drop.outcome == "solved" for drop in played))
        self.has_changed = True
        if self.drops.in_a_row > self._drop_limit:
            counts = ", ".join(f"{name}: {count}" for name, count in sorted(self.drops.groups.items()))
            advice = "; raise trial.max_prompt_tokens" if reason == "context_overflow" else ""
            last = f"; the last trial that failed: {self._last_failure}" if self._last_failure else ""
            raise RunFailed(
                f"{self.drops.in_a_row} groups in a row were dropped ({counts}) and none could be trained{advice}: see "
                f"the table drops of journal.db{last}"
            )
