"""Trials of whole groups -> samples: one per turn and one per reflection, each with its advantage. No torch.

Trials are taken in the order of their ids, and a trial's responses in the order in which they were generated, so that
the samples of a batch are a function of the set of its trials.

With a critic (`advantage.estimator: ppo`) this takes two steps: `unscored_samples` are what it must value, and
`make_samples` is given the values in the same order.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lamer.common.errors import BadInput
from lamer.common.records import MAX_REWARD, MIN_LOGPROB, Completion, Logprobs, Purpose, TokenIds, Trial
from lamer.common.settings import AdvantageSettings, CreditSettings
from lamer.learner.credit.advantages import FloatArray, GroupRows, batch_advantages, normalise
from lamer.learner.credit.gae import GaeSettings, TrialSteps, trial_advantages
from lamer.learner.credit.returns import Form, trial_returns


class SampleKind(enum.StrEnum):
    """What a response was asked for: an action, or what to learn from the attempt before."""

    TURN = "turn"
    REFLECTION = "reflection"


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to train on.

    prompt_ids: int32 [P]. ids: int32 [R]. behaviour_logprobs: float32 [R], at `temperature`. ages: int32 [R], updates
    between the policy version that generated a token and the one trained from. advantage: of every token of the
    response. value: what the critic expected at the prompt when the update began, value_target: what it should have
    expected; both 0 without a critic. trial: its trial's place among those of the batch.
    """

    kind: SampleKind
    prompt_ids: TokenIds
    ids: TokenIds
    behaviour_logprobs: Logprobs
    ages: npt.NDArray[np.int32]
    temperature: float
    is_valid: bool
    advantage: float
    value: float = 0.0
    value_target: float = 0.0
    trial: int = 0

    @property
    def age(self) -> int:
        """The age of the oldest token."""
        return int(self.ages.max())


@dataclass(frozen=True, slots=True)
class _Row:
    """A response with what its advantage is computed from.

    episode: its own index, or that of the one before a reflection. step_reward: what the environment paid for it.
    episode_reward: of its episode, or of the one after a reflection.
    """

    kind: SampleKind
    completion: Completion
    is_valid: bool
    episode: int
    step_reward: float
    episode_reward: float
    ret: float
    anchor: Hashable

    def penalty(self, advantage: AdvantageSettings) -> float:
        """What the response costs for being invalid."""
        return 0.0 if self.is_valid else advantage.invalid_action_penalty


def _form(credit: CreditSettings) -> Form:
    return "reference" if credit.form == "reference" else "paper"


def _rows(trial: Trial, credit: CreditSettings) -> Iterator[_Row]:
    returns = trial_returns(trial, _form(credit), credit.step_discount, credit.trial_discount)
    for episode, turn_returns in zip(trial.episodes, returns.turns, strict=True):
        for turn, ret in zip(episode.turns, turn_returns, strict=True):
            yield _Row(
                kind=SampleKind.TURN,
                completion=turn.completion,
                is_valid=turn.is_valid,
                episode=episode.index,
                step_reward=turn.reward,
                episode_reward=episode.reward,
                ret=ret,
                anchor=turn.anchor_state,
            )
        if episode.index < len(returns.reflections):
            reflection = trial.reflections[episode.index]
            following = trial.episodes[episode.index + 1]
            yield _Row(
                kind=SampleKind.REFLECTION,
                completion=reflection.completion,
                is_valid=reflection.is_valid,
                episode=episode.index,
                step_reward=0.0,
                episode_reward=following.reward,
                ret=returns.reflections[episode.index],
                anchor=(SampleKind.REFLECTION, following.turns[0].anchor_state),
            )


def _groups(trials: Sequence[Trial], credit: CreditSettings) -> tuple[tuple[tuple[_Row, ...], ...], ...]:
    """Rows by group, by trial, in the order of samples."""
    groups: dict[int, list[tuple[_Row, ...]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.trial_id):
        groups.setdefault(trial.group_id, []).append(tuple(_rows(trial, credit)))
    return tuple(tuple(group) for group in groups.values())


def _token_ages(completion: Completion, policy_version: int) -> npt.NDArray[np.int32]:
    ages = np.empty(len(completion.ids), dtype=np.int32)
    for span in completion.versions:
        ages[span.start : span.end] = policy_version - span.version
    return ages


def _unscored(groups: Sequence[Sequence[Sequence[_Row]]], policy_version: int) -> list[Sample]:
    trials = [rows for group in groups for rows in group]
    return [_sample(row, trial, policy_version) for trial, rows in enumerate(trials) for row in rows]


def _sample(row: _Row, trial: int, policy_version: int) -> Sample:
    completion = row.completion
    return Sample(
        kind=row.kind,
        prompt_ids=completion.prompt_ids,
        ids=completion.ids,
        behaviour_logprobs=completion.behaviour_logprobs,
        ages=_token_ages(completion, policy_version),
        temperature=completion.temperature,
        is_valid=row.is_valid,
        advantage=0.0,
        trial=trial,
    )


def _check(trials: Sequence[Trial]) -> None:
    ids = [trial.trial_id for trial in trials]
    if not ids:
        raise BadInput("a batch needs at least one trial, got none")
    if len(set(ids)) != len(ids):
        raise BadInput(f"a trial stands twice in the batch: {sorted(name for name in set(ids) if ids.count(name) > 1)}")
    for trial in trials:
        if trial.purpose is not Purpose.TRAIN or not trial.is_trainable:
            statuses = [episode.status.value for episode in trial.episodes]
            raise BadInput(
                f"trial {trial.trial_id} can't be trained: purpose {trial.purpose.value}, episodes {statuses}"
            )
        if problem := _odd_number(trial):
            raise BadInput(f"trial {trial.trial_id} can't be trained: {problem}")


def _odd_number(trial: Trial) -> str:
    """A number of a trial from which no finite loss can come, "" if there is none."""
    for turn in (turn for episode in trial.episodes for turn in episode.turns):
        if not abs(turn.reward) <= MAX_REWARD:
            return f"a reward is {turn.reward}"
    for completion in trial.completions():
        if not 0.0 < completion.temperature < math.inf:
            return f"a temperature is {completion.temperature}"
        lowest = float(completion.behaviour_logprobs.min())
        if not lowest >= MIN_LOGPROB:
            return f"a behaviour logprob is {lowest}"
    return ""


def unscored_samples(trials: Sequence[Trial], policy_version: int) -> tuple[Sample, ...]:
    """The samples of a batch with advantage 0, in the order of `make_samples`: what a critic is asked to value.

    Raises:
        BadInput: no trials, one twice, or one that is not fit for training.
    """
    _check(trials)
    return tuple(_unscored(_groups(trials, CreditSettings()), policy_version))


def make_samples(
    trials: Sequence[Trial],
    policy_version: int,
    credit: CreditSettings,
    advantage: AdvantageSettings,
    values: FloatArray | None = None,
) -> tuple[Sample, ...]:
    """The samples of a batch, group by group.

    Args:
        trials: all trials of every group of the batch, in any order.
        policy_version: the version trained from.
        credit: discounts and form of the returns.
        advantage: the estimator.
        values: of the critic, float64 [n] in the order of `unscored_samples`; for `ppo` only.

    Raises:
        BadInput: no trials, one twice, or one that is not fit for training; `ppo` without a value for each sample.
    """
    _check(trials)
    groups = _groups(trials, credit)
    samples = _unscored(groups, policy_version)
    if advantage.estimator == "ppo":
        if values is None or len(values) != len(samples):
            given = 0 if values is None else len(values)
            raise BadInput(f"ppo needs the critic's value of each of {len(samples)} samples, got {given}")
        advantages = _critic_advantages(groups, values, credit, advantage)
        targets = advantages + values
        samples = [
            replace(sample, value=float(value), value_target=float(target))
            for sample, value, target in zip(samples, values, targets, strict=True)
        ]
    else:
        advantages = batch_advantages([_group_rows(group, advantage) for group in groups], advantage)
    if advantage.whiten:
        advantages = normalise(advantages, "mean_std")
    return tuple(replace(sample, advantage=float(one)) for sample, one in zip(samples, advantages, strict=True))


def _group_rows(group: Sequence[Sequence[_Row]], advantage: AdvantageSettings) -> GroupRows:
    rows = [row for trial_rows in group for row in trial_rows]
    return GroupRows(
        rewards=np.array([row.episode_reward for row in rows], dtype=np.float64),
        returns=np.array([row.ret for row in rows], dtype=np.float64),
        penalties=np.array([row.penalty(advantage) for row in rows], dtype=np.float64),
        anchors=[row.anchor for row in rows],
    )


def _critic_advantages(
    groups: Sequence[Sequence[Sequence[_Row]]], values: FloatArray, credit: CreditSettings, advantage: AdvantageSettings
) -> FloatArray:
    """GAE trial by trial: float64 [n]. An invalid response's reward is lower by the penalty."""
    settings = GaeSettings(_form(credit), credit.step_discount, credit.trial_discount, advantage.gae_lambda)
    found: list[float] = []
    for rows in (trial_rows for group in groups for trial_rows in group):
        own = values[len(found) : len(found) + len(rows)]
        found += _trial_advantages(rows, own.tolist(), settings, advantage)
    return np.array(found, dtype=np.float64)


def _trial_advantages(
    rows: Sequence[_Row], values: Sequence[float], settings: GaeSettings, advantage: AdvantageSettings
) -> list[float]:
    """GAE of one trial's rows, in their order."""
    turns: list[list[tuple[float, float]]] = [[] for _ in range(1 + max(row.episode for row in rows))]
    reflections: list[tuple[float, float]] = []
    for row, value in zip(rows, values, strict=True):
        seen = reflections if row.kind is SampleKind.REFLECTION else turns[row.episode]
        seen.append((row.step_reward - row.penalty(advantage), value))
    found = trial_advantages(
        TrialSteps(
            rewards=[[reward for reward, _ in episode] for episode in turns],
            values=[[value for _, value in episode] for episode in turns],
            reflection_rewards=[reward for reward, _ in reflections],
            reflection_values=[value for _, value in reflections],
        ),
        settings,
    )
    in_order = [list(episode) for episode in found.turns]
    for index, one in enumerate(found.reflections):
        in_order[index].append(one)
    return [one for episode in in_order for one in episode]
