"""What an evaluation of one policy version asks and what came of it: pure functions of trials.

    EvaluationPlan     which tasks, how many rounds and episodes, with what memory and sampling
    measure            one trial, counted
    summarise          all of them: pass@k with intervals, diversity, tokens, and each task's own outcome
    write_evaluation   evaluations/NAME.json of a run's folder;  read_evaluations: all of them

Task i of an evaluation has seed `EVALUATION_SEED` + i, so that no training task is among them and every evaluation of
every run asks the same ones. Play p of an evaluation is task p mod tasks in round p div tasks; its sampling seeds
follow from its trial id, so the rounds differ in nothing else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from lamer.common.errors import BadInput
from lamer.common.messages import Metric, Sampling
from lamer.common.records import EVALUATION_SEED, EpisodeStatus, MemoryMode, Task, Trial
from lamer.learner.measuring.diversity import Diversity, diversity, entropy, trajectory
from lamer.learner.measuring.intervals import Interval, bootstrap_intervals

EVALUATIONS_FOLDER = "evaluations"
INITIAL = "initial"
FINAL = "final"

_FAULTS = (EpisodeStatus.INFERENCE_ERROR, EpisodeStatus.ENVIRONMENT_ERROR)


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


@dataclass(frozen=True, slots=True)
class MeasuredEpisode:
    """One episode, counted. tokens: of its turns' responses. trajectory: equal for equal states and actions."""

    turns: int
    valid_turns: int
    tokens: int
    trajectory: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation trial, counted. A trial whose prompt outgrew the context counts as unsolved."""

    solved_at: int | None
    episodes: tuple[MeasuredEpisode, ...]
    reflections: int
    reflection_tokens: int
    first_action: str | None
    is_overflowed: bool
    shortened: int = 0

    @property
    def trajectory(self) -> str:
        """Equal for trials whose episodes all went the same way."""
        return "/".join(episode.trajectory for episode in self.episodes)


def evaluation_task(env: str, env_config: str, index: int) -> Task:
    """Task `index` of every evaluation."""
    return Task(env, env_config, EVALUATION_SEED + index)


def is_faulty(trial: Trial) -> bool:
    """Whether a trial says nothing about the policy, because a server or the environment failed in it."""
    return not trial.episodes or any(episode.status in _FAULTS for episode in trial.episodes)


def measure(trial: Trial) -> Measured:
    """Count one trial."""
    first = trial.episodes[0].turns if trial.episodes else ()
    return Measured(
        solved_at=trial.solved_at,
        episodes=tuple(
            MeasuredEpisode(
                turns=len(episode.turns),
                valid_turns=sum(turn.is_valid for turn in episode.turns),
                tokens=sum(len(turn.completion.ids) for turn in episode.turns),
                trajectory=trajectory(episode),
            )
            for episode in trial.episodes
        ),
        reflections=len(trial.reflections),
        reflection_tokens=sum(len(reflection.completion.ids) for reflection in trial.reflections),
        first_action=first[0].action if first else None,
        is_overflowed=any(episode.status is EpisodeStatus.CONTEXT_OVERFLOW for episode in trial.episodes),
        shortened=len(trial.left_out_tokens),
    )


def pass_at(solved_at: Sequence[int | None], episodes: int) -> tuple[float, ...]:
    """pass@1, pass@2, ... of trials by the episode that solved them: of [0, 2, None, None] .25, .25, .5."""
    counts = Counter(solved_at)
    return tuple(sum(counts[k] for k in range(last + 1)) / max(len(solved_at), 1) for last in range(episodes))


def task_shares(outcomes: Sequence[TaskOutcome], episodes: int) -> np.ndarray:
    """pass@1..episodes of each task over its rounds, [tasks played, episodes]: column means are pass@k of the tasks."""
    rows = [pass_at(outcome.solved_at, episodes) for outcome in outcomes if outcome.solved_at]
    return np.array(rows, dtype=np.float64).reshape(len(rows), episodes)


def summarise(
    plan: EvaluationPlan, measured: Mapping[int, Measured], failed: Collection[int], seconds: float
) -> EvaluationResult:
    """All that was measured. measured, failed: by play."""
    by_task: list[list[Measured]] = [[] for _ in range(plan.tasks)]
    for play in sorted(measured):
        by_task[play % plan.tasks].append(measured[play])
    failures = Counter(play % plan.tasks for play in failed)
    outcomes = tuple(
        TaskOutcome(index, EVALUATION_SEED + index, tuple(one.solved_at for one in by_task[index]), failures[index])
        for index in range(plan.tasks)
        if by_task[index] or failures[index]
    )
    shares = task_shares(outcomes, plan.episodes)
    trials = [one for task in by_task for one in task]
    played = [episode for one in trials for episode in one.episodes]
    turns, tokens = sum(each.turns for each in played), sum(each.tokens for each in played)
    reflections, reflected = sum(one.reflections for one in trials), sum(one.reflection_tokens for one in trials)
    return EvaluationResult(
        name=plan.name,
        policy_version=plan.policy_version,
        n=len(trials),
        failed=len(failed),
        pass_at=tuple(shares.mean(axis=0).tolist()) if len(shares) else (0.0,) * plan.episodes,
        valid_action_rate=sum(each.valid_turns for each in played) / max(turns, 1),
        mean_turns=turns / max(len(trials), 1),
        mean_response_tokens=(tokens + reflected) / max(turns + reflections, 1),
        first_action_entropy=entropy(one.first_action for one in trials if one.first_action is not None),
        sampling=plan.sampling,
        seconds=seconds,
        intervals=bootstrap_intervals(shares),
        rounds=plan.rounds,
        episodes=plan.episodes,
        memory=plan.memory,
        env=plan.env,
        env_config=plan.env_config,
        overflowed=sum(one.is_overflowed for one in trials),
        turns_per_episode=turns / max(len(played), 1),
        tokens_per_episode=tokens / max(len(played), 1),
        reflection_tokens=reflected / max(reflections, 1),
        trial_diversity=diversity([[one.trajectory for one in task] for task in by_task]),
        by_episode=tuple(_episode_figures(by_task, index) for index in range(plan.episodes)),
        outcomes=outcomes,
        shortened=sum(one.shortened for one in trials),
    )


def _episode_figures(by_task: Sequence[Sequence[Measured]], index: int) -> EpisodeFigures:
    """Of episode `index`; zeros where no trial came to it."""
    reached = [[one for one in task if len(one.episodes) > index] for task in by_task]
    trials = [one for task in reached for one in task]
    played = [one.episodes[index] for one in trials]
    turns, count = sum(each.turns for each in played), max(len(played), 1)
    return EpisodeFigures(
        trials=len(played),
        solved=sum(one.solved_at == index for one in trials) / count,
        turns=turns / count,
        tokens=sum(each.tokens for each in played) / count,
        valid_action_rate=sum(each.valid_turns for each in played) / max(turns, 1),
        diversity=diversity([[one.episodes[index].trajectory for one in task] for task in reached]),
    )


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
