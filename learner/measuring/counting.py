"""Counting the trials of an evaluation: pure functions of records.

measure     one trial, counted
summarise   all of them: pass@k with intervals, diversity, tokens, and each task's own outcome
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamer.common.masking import masked_json
from lamer.common.records import EVALUATION_SEED, EpisodeStatus, Trial
from lamer.learner.measuring.diversity import diversity, entropy, trajectory
from lamer.learner.measuring.evaluation import EpisodeFigures, EvaluationPlan, EvaluationResult, TaskOutcome
from lamer.learner.measuring.intervals import bootstrap_intervals

_FAULTS = (EpisodeStatus.INFERENCE_ERROR, EpisodeStatus.ENVIRONMENT_ERROR)


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


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over all trials that were measured; the rates are 0 where nothing was played."""

    trials: int
    episodes: int
    turns: int
    valid_turns: int
    turn_tokens: int
    reflections: int
    reflection_tokens: int

    @classmethod
    def of(cls, trials: Sequence[Measured]) -> _Totals:
        played = [episode for one in trials for episode in one.episodes]
        return cls(
            trials=len(trials),
            episodes=len(played),
            turns=sum(each.turns for each in played),
            valid_turns=sum(each.valid_turns for each in played),
            turn_tokens=sum(each.tokens for each in played),
            reflections=sum(one.reflections for one in trials),
            reflection_tokens=sum(one.reflection_tokens for one in trials),
        )

    @property
    def tokens_per_response(self) -> float:
        """Reflections included."""
        return (self.turn_tokens + self.reflection_tokens) / max(self.turns + self.reflections, 1)


def summarise(
    plan: EvaluationPlan, measured: Mapping[int, Measured], failed: Collection[int], seconds: float
) -> EvaluationResult:
    """All that was measured. measured, failed: by play."""
    by_task = _by_task(plan, measured)
    outcomes = _outcomes(plan, by_task, failed)
    shares = task_shares(outcomes, plan.episodes)
    trials = [one for task in by_task for one in task]
    totals = _Totals.of(trials)
    return EvaluationResult(
        name=plan.name,
        policy_version=plan.policy_version,
        n=totals.trials,
        failed=len(failed),
        pass_at=tuple(shares.mean(axis=0).tolist()) if len(shares) else (0.0,) * plan.episodes,
        valid_action_rate=totals.valid_turns / max(totals.turns, 1),
        mean_turns=totals.turns / max(totals.trials, 1),
        mean_response_tokens=totals.tokens_per_response,
        first_action_entropy=entropy(one.first_action for one in trials if one.first_action is not None),
        sampling=plan.sampling,
        seconds=seconds,
        intervals=bootstrap_intervals(shares),
        rounds=plan.rounds,
        episodes=plan.episodes,
        memory=plan.memory,
        env=plan.env,
        env_config=masked_json(plan.env_config),
        overflowed=sum(one.is_overflowed for one in trials),
        turns_per_episode=totals.turns / max(totals.episodes, 1),
        tokens_per_episode=totals.turn_tokens / max(totals.episodes, 1),
        reflection_tokens=totals.reflection_tokens / max(totals.reflections, 1),
        trial_diversity=diversity([[one.trajectory for one in task] for task in by_task]),
        by_episode=tuple(_episode_figures(by_task, index) for index in range(plan.episodes)),
        outcomes=outcomes,
        shortened=sum(one.shortened for one in trials),
    )


def _by_task(plan: EvaluationPlan, measured: Mapping[int, Measured]) -> list[list[Measured]]:
    """The trials of each task, in the order of their rounds."""
    by_task: list[list[Measured]] = [[] for _ in range(plan.tasks)]
    for play in sorted(measured):
        by_task[play % plan.tasks].append(measured[play])
    return by_task


def _outcomes(
    plan: EvaluationPlan, by_task: Sequence[Sequence[Measured]], failed: Collection[int]
) -> tuple[TaskOutcome, ...]:
    """Of every task that was played, or tried, in some round."""
    failures = Counter(play % plan.tasks for play in failed)
    return tuple(
        TaskOutcome(index, EVALUATION_SEED + index, tuple(one.solved_at for one in trials), failures[index])
        for index, trials in enumerate(by_task)
        if trials or failures[index]
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
