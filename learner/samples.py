"""Trials of whole groups -> samples: one per turn and one per reflection, each with its advantage. No torch.

Trials are taken in the order of their ids, and a trial's responses in the order in which they were generated, so that
the samples of a batch are a function of the set of its trials.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import BadInput
from common.records import Completion, Logprobs, Purpose, TokenIds, Trial
from common.settings import AdvantageSettings, CreditSettings
from learner.advantages import GroupRows, group_advantages
from learner.returns import Form, trial_returns


class SampleKind(enum.StrEnum):
    """What a response was asked for: an action, or what to learn from the attempt before."""

    TURN = "turn"
    REFLECTION = "reflection"


@dataclass(frozen=True, slots=True)
class Sample:
    """One response to train on.

    prompt_ids: int32 [P]. ids: int32 [R]. behaviour_logprobs: float32 [R], at `temperature`. ages: int32 [R], updates
    between the policy version that generated a token and the one trained from. advantage: of every token of the
    response.
    """

    kind: SampleKind
    prompt_ids: TokenIds
    ids: TokenIds
    behaviour_logprobs: Logprobs
    ages: npt.NDArray[np.int32]
    temperature: float
    is_valid: bool
    advantage: float

    @property
    def age(self) -> int:
        """The age of the oldest token."""
        return int(self.ages.max())


@dataclass(frozen=True, slots=True)
class _Row:
    """A response with what its group's advantages are computed from."""

    kind: SampleKind
    completion: Completion
    is_valid: bool
    reward: float
    ret: float
    anchor: Hashable


def _rows(trial: Trial, credit: CreditSettings) -> Iterator[_Row]:
    form: Form = "reference" if credit.form == "reference" else "paper"
    returns = trial_returns(trial, form, credit.step_discount, credit.trial_discount)
    for episode, turn_returns in zip(trial.episodes, returns.turns, strict=True):
        for turn, ret in zip(episode.turns, turn_returns, strict=True):
            yield _Row(SampleKind.TURN, turn.completion, turn.is_valid, episode.reward, ret, turn.anchor_state)
        if episode.index < len(returns.reflections):
            reflection = trial.reflections[episode.index]
            following = trial.episodes[episode.index + 1]
            anchor = (SampleKind.REFLECTION, following.turns[0].anchor_state)
            ret = returns.reflections[episode.index]
            yield _Row(SampleKind.REFLECTION, reflection.completion, reflection.is_valid, following.reward, ret, anchor)


def _token_ages(completion: Completion, policy_version: int) -> npt.NDArray[np.int32]:
    ages = np.empty(len(completion.ids), dtype=np.int32)
    for span in completion.versions:
        ages[span.start : span.end] = policy_version - span.version
    return ages


def _sample(row: _Row, advantage: float, policy_version: int) -> Sample:
    completion = row.completion
    return Sample(
        kind=row.kind,
        prompt_ids=completion.prompt_ids,
        ids=completion.ids,
        behaviour_logprobs=completion.behaviour_logprobs,
        ages=_token_ages(completion, policy_version),
        temperature=completion.temperature,
        is_valid=row.is_valid,
        advantage=advantage,
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


def make_samples(
    trials: Sequence[Trial], policy_version: int, credit: CreditSettings, advantage: AdvantageSettings
) -> tuple[Sample, ...]:
    """The samples of a batch, group by group.

    Args:
        trials: all trials of every group of the batch, in any order.
        policy_version: the version trained from.
        credit: discounts and form of the returns.
        advantage: the estimator.

    Raises:
        BadInput: no trials, one twice, or one that is not fit for training.
    """
    _check(trials)
    groups: dict[int, list[_Row]] = {}
    for trial in sorted(trials, key=lambda trial: trial.trial_id):
        groups.setdefault(trial.group_id, []).extend(_rows(trial, credit))
    samples: list[Sample] = []
    for rows in groups.values():
        arrays = GroupRows(
            rewards=np.array([row.reward for row in rows], dtype=np.float64),
            returns=np.array([row.ret for row in rows], dtype=np.float64),
            penalties=np.array([0.0 if row.is_valid else advantage.invalid_action_penalty for row in rows]),
            anchors=[row.anchor for row in rows],
        )
        advantages = group_advantages(arrays, advantage)
        samples.extend(_sample(row, float(value), policy_version) for row, value in zip(rows, advantages, strict=True))
    return tuple(samples)
