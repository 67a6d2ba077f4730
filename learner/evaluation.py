"""Measuring one policy version: which evaluation trials are still to be played, and what those played say.

Task i of an evaluation has seed `EVALUATION_SEED` + i, so that no training task is among them and every evaluation of
every run asks the same ones. A trial's slot is the version evaluated, which keeps the trials of several evaluations
apart.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.errors import BadInput
from common.messages import Sampling
from common.records import EVALUATION_SEED, EpisodeStatus, Task, Trial
from learner.groups import Acceptance

_FAULTS = (EpisodeStatus.INFERENCE_ERROR, EpisodeStatus.ENVIRONMENT_ERROR)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What the evaluation of one policy version measured.

    name: "initial" or "final". n: trials measured. failed: tasks left out because of faults of servers or environments.
    pass_at[k]: share of tasks solved within k + 1 episodes. valid_action_rate: of all turns. mean_turns: per trial.
    mean_response_tokens: per response, reflections included. first_action_entropy: nats, of the distribution of the
    first valid action over the trials. seconds: it took.
    """

    name: str
    policy_version: int
    n: int
    failed: int
    pass_at: tuple[float, ...]
    valid_action_rate: float
    mean_turns: float
    mean_response_tokens: float
    first_action_entropy: float
    sampling: Sampling
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation trial, counted. A trial whose prompt outgrew the context counts as unsolved."""

    solved_at: int | None
    turns: int
    valid_turns: int
    responses: int
    response_tokens: int
    first_action: str | None


def is_faulty(trial: Trial) -> bool:
    """Whether a trial says nothing about the policy, because a server or the environment failed in it."""
    return not trial.episodes or any(episode.status in _FAULTS for episode in trial.episodes)


def measure(trial: Trial) -> Measured:
    """Count one trial."""
    turns = [turn for episode in trial.episodes for turn in episode.turns]
    completions = list(trial.completions())
    first = trial.episodes[0].turns if trial.episodes else ()
    return Measured(
        solved_at=trial.solved_at,
        turns=len(turns),
        valid_turns=sum(turn.is_valid for turn in turns),
        responses=len(completions),
        response_tokens=sum(len(completion.ids) for completion in completions),
        first_action=first[0].action if first else None,
    )


def pass_at(solved_at: Sequence[int | None], episodes: int) -> tuple[float, ...]:
    """pass@1, pass@2, ... of trials by the episode that solved them: of [0, 2, None, None] .25, .25, .5."""
    counts = Counter(solved_at)
    return tuple(sum(counts[k] for k in range(last + 1)) / max(len(solved_at), 1) for last in range(episodes))


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a share."""

    low: float
    high: float


def wilson_interval(solved: int, n: int, z: float = 1.959964) -> Interval:
    """Wilson's score interval of the share solved / n (Wilson, 1927); z 1.96 gives 95%.

    Of 9 solved in 10, .596 .. .982. Unlike the normal approximation it keeps within 0 .. 1, and has a width at 0 and 1.
    """
    if not 0 <= solved <= n or n < 1:
        raise BadInput(f"a share needs 0 <= solved <= n and n >= 1, got {solved} of {n}")
    share = solved / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def entropy(values: Iterable[str]) -> float:
    """Entropy in nats of the empirical distribution of `values`; 0 for none."""
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


class Evaluation:
    """One evaluation under way: tasks are leased in order, and again when their trial failed, a bounded number of
    times.

    finished: set when every task's trial is on disk or given up.
    """

    def __init__(self, name: str, policy_version: int, tasks: int, slot_retries: int) -> None:
        self.name = name
        self.policy_version = policy_version
        self.tasks = tasks
        self._slot_retries = slot_retries
        self._waiting = deque(range(tasks))
        self._failures: Counter[int] = Counter()
        self._measured: dict[int, Measured] = {}
        self._failed: set[int] = set()
        self._stored: set[int] = set()
        self.finished = asyncio.Event()

    @property
    def done(self) -> int:
        """How many tasks are finished."""
        return len(self._stored) + len(self._failed)

    def take(self) -> int | None:
        """The next task to lease, None when none is left."""
        while self._waiting:
            task = self._waiting.popleft()
            if not self._is_settled(task):
                return task
        return None

    def give_back(self, task: int) -> None:
        """Lease a task again that was not played."""
        self._waiting.appendleft(task)

    def fail(self, task: int) -> None:
        """Count a failed attempt: the task is leased again, or left out after too many."""
        if self._is_settled(task):
            return
        self._failures[task] += 1
        if self._failures[task] > self._slot_retries:
            self._failed.add(task)
            self._check_finished()
        else:
            self._waiting.append(task)

    def accept(self, task: int, trial: Trial) -> Acceptance:
        """Count a trial that arrived, unless it is known; NEW obliges the caller to `store` it once it is on disk."""
        if task >= self.tasks or task in self._failed:
            return Acceptance.LATE
        if task in self._measured:
            return Acceptance.DUPLICATE
        self._measured[task] = measure(trial)
        return Acceptance.NEW

    def store(self, task: int) -> None:
        """Note that a task's trial is on disk."""
        self._stored.add(task)
        self._check_finished()

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take the trials that an earlier gateway of this run had stored."""
        for trial in trials:
            if self.accept(trial.group_id, trial) is Acceptance.NEW:
                self.store(trial.group_id)

    def result(self, episodes: int, sampling: Sampling, seconds: float) -> EvaluationResult:
        """What was measured over all tasks that were played out."""
        measured = list(self._measured.values())
        turns = sum(one.turns for one in measured)
        return EvaluationResult(
            name=self.name,
            policy_version=self.policy_version,
            n=len(measured),
            failed=len(self._failed),
            pass_at=pass_at([one.solved_at for one in measured], episodes),
            valid_action_rate=sum(one.valid_turns for one in measured) / max(turns, 1),
            mean_turns=turns / max(len(measured), 1),
            mean_response_tokens=sum(one.response_tokens for one in measured)
            / max(sum(one.responses for one in measured), 1),
            first_action_entropy=entropy(one.first_action for one in measured if one.first_action is not None),
            sampling=sampling,
            seconds=seconds,
        )

    def _check_finished(self) -> None:
        if self.done == self.tasks:
            self.finished.set()

    def _is_settled(self, task: int) -> bool:
        return task in self._measured or task in self._failed


def evaluation_task(env: str, env_config: str, index: int) -> Task:
    """Task `index` of every evaluation."""
    return Task(env, env_config, EVALUATION_SEED + index)
