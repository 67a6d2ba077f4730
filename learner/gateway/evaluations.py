"""The evaluations of a run: which policy versions are measured, and what came of them.

An evaluation during training pins its version by deferring the next batch until it is done: the trainer waits, so
every server holds that version and plays it. Training trials are leased meanwhile wherever it leaves room, as far as
max_staleness lets them: it costs the trainer's time, less what the batches that are ready by then save it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.learner.gateway.dispatch import Dispatcher
from lamer.learner.gateway.open_evaluation import OpenEvaluation
from lamer.learner.gateway.plan import EvaluationSchedule, Tracker
from lamer.learner.journal.writer import Journal
from lamer.learner.measuring.evaluation import (
    INITIAL,
    EvaluationResult,
    evaluation_path,
    read_evaluations,
    write_evaluation,
)

log = logging.getLogger("lamer.gateway")

_UPDATE = "update-"


class Evaluations:
    """Plays one evaluation at a time and keeps the results.

    results: of the versions measured so far that are still the run's, in the order in which they were measured.
    """

    def __init__(
        self,
        run_dir: Path,
        schedule: EvaluationSchedule,
        tracker: Tracker,
        journal: Journal,
        dispatcher: Dispatcher,
        results: list[EvaluationResult],
        wake: Callable[[], None],
    ) -> None:
        """wake: called when plays wait to be leased, or the trainer waits no more."""
        self._run_dir = run_dir
        self._schedule = schedule
        self._tracker = tracker
        self._journal = journal
        self._dispatcher = dispatcher
        self._wake = wake
        self._under_way: OpenEvaluation | None = None
        self._due_version = 0
        self._due = asyncio.Event()
        self.results = results

    def restore(self, step: int) -> None:
        """Take the results that an earlier gateway of this run had come to up to update `step`."""
        try:
            known = read_evaluations(self._run_dir)
        except BadInput as error:
            log.warning("the results of earlier evaluations of this run are left out: %s", error)
            return
        self.results.extend(result for result in known if result.name == INITIAL or result.name.startswith(_UPDATE))
        self._forget_after(step)

    async def due(self) -> tuple[str, int]:
        """Wait for a policy version of training that is to be measured: its evaluation's name, and it."""
        await self._due.wait()
        return f"{_UPDATE}{self._due_version}", self._due_version

    def must_come_first(self, version: int) -> bool:
        """Whether the batch that would be trained from `version` must wait until that version is measured.

        A version below the last one means that the trainer went back to a checkpoint: what was measured of later ones
        is forgotten, and an evaluation of one abandoned.
        """
        self._forget_after(version)
        if self._under_way is not None or self._due.is_set():
            return True
        if not self._schedule.is_due(version) or any(result.policy_version == version for result in self.results):
            return False
        self._due_version = version
        self._due.set()
        return True

    async def measure(self, name: str, version: int) -> None:
        """Measure a policy version; trials that an earlier gateway of this run stored are kept."""
        if self._schedule.asked.tasks == 0:
            return
        clock = asyncio.get_running_loop().time
        started = clock()
        plan = self._schedule.plan(name, version)
        evaluation = self._under_way = OpenEvaluation(plan, self._schedule.slot_retries)
        self._due.clear()
        evaluation.restore(await self._journal.evaluated(version))
        self._dispatcher.evaluation = evaluation
        self._wake()
        await evaluation.finished.wait()
        self._dispatcher.evaluation = None
        if not evaluation.is_abandoned:
            self._keep(await asyncio.to_thread(evaluation.result, clock() - started))
        self._under_way = None
        self._wake()

    def _keep(self, result: EvaluationResult) -> None:
        self.results.append(result)
        write_evaluation(result, self._run_dir)
        self._tracker.log(result.policy_version, result.metrics())
        if result.overflowed:
            log.warning(
                "evaluation %s: %d of %d trials ended because a prompt was longer than trial.max_prompt_tokens or the "
                "model's context allow; they count as unsolved",
                result.name,
                result.overflowed,
                result.n,
            )

    def _forget_after(self, version: int) -> None:
        for result in [result for result in self.results if result.policy_version > version]:
            self.results.remove(result)
            evaluation_path(self._run_dir, result.name).unlink(missing_ok=True)
        if self._under_way is not None and self._under_way.plan.policy_version > version:
            self._under_way.abandon()
        if self._due.is_set() and self._due_version > version:
            self._due.clear()
