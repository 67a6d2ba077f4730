"""What an evaluation of one policy version asks, and what came of it.

    EvaluationPlan     which tasks, how many rounds and episodes, with what memory and sampling
    EvaluationResult   pass@k with intervals, diversity, tokens, and each task's own outcome
    write_evaluation   evaluations/NAME.json of a run's folder;  read_evaluations: all of them

`learner.measuring.counting` makes the result of the trials that were played.

Task i of an evaluation has seed `EVALUATION_SEED` + i, so that no training task is among them and every evaluation of
every run asks the same ones. Play p of an evaluation is task p mod tasks in round p div tasks; its sampling seeds
follow from its trial id, so the rounds differ in nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.common.errors import BadInput
from lamer.common.messages import Metric, Sampling
from lamer.common.records import EVALUATION_SEED, MemoryMode, Task
from lamer.learner.measuring.diversity import Diversity
from lamer.learner.measuring.intervals import Interval

EVALUATIONS_FOLDER = "evaluations"
INITIAL = "initial"
FINAL = "final"


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is asked of one policy version. env_config: the environment's options as canonical JSON."""

    name: str
    policy_version: int
    env: str
    env_config: str
    tasks: int
    rounds: int
    episodes: int
    memory: MemoryMode
    sampling: Sampling

    @property
    def plays(self) -> int:
        """Trials to be played: every task in every round."""
        return self.tasks * self.rounds

    def task(self, play: int) -> Task:
        """The task of play `play`."""
        return evaluation_task(self.env, self.env_config, play % self.tasks)


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """One task. solved_at: of every round played, the episode (from 0) that solved it, None if none did. failed: rounds
    left out because of faults.
    """

    index: int
    seed: int
    solved_at: tuple[int | None, ...]
    failed: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeFigures:
    """Of the n-th episode of the trials that came to play it.

    trials: so many. solved: share of them that it solved. turns, tokens: means, tokens of its turns alone. diversity:
    of its trajectories; only the first episode's compares between policies, for the later ones are those of what the
    earlier ones left unsolved.
    """

    trials: int
    solved: float
    turns: float
    tokens: float
    valid_action_rate: float
    diversity: Diversity | None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What the evaluation of one policy version measured.

    name: "initial", "update-N" or "final", which is that of `lamer eval` too. n: trials measured.
    failed: trials left out because of faults of servers or environments. pass_at[k]: share solved within k + 1
    episodes, the mean over tasks of the mean over their rounds; intervals[k]: its 95% bootstrap interval over tasks.
    valid_action_rate: of all turns. mean_turns: per trial. mean_response_tokens: per response, reflections included.
    first_action_entropy: nats, of the distribution of the first valid action over the trials. seconds: it took.

    rounds, episodes, memory, env, env_config: what was asked. outcomes: every task that was played. overflowed: trials
    that a too long prompt ended, counted as unsolved. shortened: prompts that were shortened to keep to their budget,
    of turns and reflections together. turns_per_episode, tokens_per_episode: means; tokens of turns
    alone, and reflection_tokens: per reflection. by_episode[i]: of episode i. trial_diversity: of whole trials, None
    where no task was played twice.
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
    intervals: tuple[Interval, ...] = ()
    rounds: int = 1
    episodes: int = 0
    memory: MemoryMode = MemoryMode.NONE
    env: str = ""
    env_config: str = "{}"
    overflowed: int = 0
    turns_per_episode: float = 0.0
    tokens_per_episode: float = 0.0
    reflection_tokens: float = 0.0
    trial_diversity: Diversity | None = None
    by_episode: tuple[EpisodeFigures, ...] = ()
    outcomes: tuple[TaskOutcome, ...] = ()
    shortened: int = 0

    @property
    def tasks(self) -> int:
        """Tasks measured in at least one round."""
        return sum(bool(outcome.solved_at) for outcome in self.outcomes)

    def metrics(self) -> tuple[Metric, ...]:
        """Its figures by the names that MLflow shows: eval/pass@1, eval/pass@1_low, eval/diversity ..."""
        first = self.by_episode[0].diversity if self.by_episode else None
        kinds = (("trial", self.trial_diversity), ("first_episode", first))
        return (
            *(Metric(f"eval/pass@{k}", share) for k, share in enumerate(self.pass_at, start=1)),
            *(Metric(f"eval/pass@{k}_low", each.low) for k, each in enumerate(self.intervals, start=1)),
            *(Metric(f"eval/pass@{k}_high", each.high) for k, each in enumerate(self.intervals, start=1)),
            Metric("eval/valid_action_rate", self.valid_action_rate),
            Metric("eval/first_action_entropy", self.first_action_entropy),
            Metric("eval/turns_per_episode", self.turns_per_episode),
            Metric("eval/tokens_per_episode", self.tokens_per_episode),
            Metric("eval/shortened_prompts", float(self.shortened)),
            Metric("eval/seconds", self.seconds),
            *(Metric(f"eval/{kind}_diversity", each.nats) for kind, each in kinds if each is not None),
        )


def evaluation_task(env: str, env_config: str, index: int) -> Task:
    """Task `index` of every evaluation."""
    return Task(env, env_config, EVALUATION_SEED + index)


def evaluation_path(run_dir: Path, name: str) -> Path:
    """Where a run's folder keeps the evaluation called `name`."""
    return run_dir / EVALUATIONS_FOLDER / f"{name}.json"


def write_evaluation(result: EvaluationResult, run_dir: Path) -> Path:
    """Write evaluations/NAME.json in a run's folder: a reader sees the file before or after, never a part of it."""
    path = evaluation_path(run_dir, result.name)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return temporary.replace(path)


def read_evaluation(path: Path) -> EvaluationResult:
    """What `write_evaluation` wrote.

    Raises:
        BadInput: the file is none of it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EvaluationResult)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadInput(f"{path} is no evaluation: {error}") from error


def read_evaluations(run_dir: Path) -> tuple[EvaluationResult, ...]:
    """Every evaluation in a run's folder, by policy version and name.

    Raises:
        BadInput: a file there is none.
    """
    found = [read_evaluation(path) for path in sorted((run_dir / EVALUATIONS_FOLDER).glob("[!.]*.json"))]
    return tuple(sorted(found, key=lambda result: (result.policy_version, result.name)))
