"""The bounds of a trial: what an honest actor of this run can send, and nothing beyond. Pure; no torch.

Its records have checked lengths, spans and that numbers fit 63 bits when they were decoded (`common.records`). Here it
is held against the run: rewards and log-probabilities that can be trained on, ids of the vocabulary, versions that were
published, temperature and lengths as leased. Actors keep to the same bounds where values come in (`envs.results`,
`actors.generation`), so that a fault of an environment or a server shows there, with its name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from lamer.common.errors import MALFORMED
from lamer.common.messages import name_problem
from lamer.common.records import (
    LONGEST_SECONDS,
    MAX_LOGPROB,
    MAX_REWARD,
    MIN_LOGPROB,
    Completion,
    Purpose,
    Trial,
    Turn,
)
from lamer.common.settings import TrialSettings
from lamer.learner.measuring.evaluation import EvaluationPlan

_MAX_COUNT = 2**31 - 1


def read_vocabulary(model: Path) -> int | None:
    """How many token ids the model of a folder knows, None where its config.json does not say."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        size = config.get("vocab_size") or config["text_config"]["vocab_size"]
    except (OSError, *MALFORMED, KeyError, TypeError, AttributeError):
        return None
    return size if isinstance(size, int) and size > 0 else None


@dataclass(frozen=True, slots=True)
class _Leased:
    """What leases of one purpose ask for."""

    episodes: int
    has_reflections: bool
    temperature: float
    response_tokens: int
    reflection_tokens: int
    prompt_tokens: int


class TrialRules:
    """The bounds of one run's trials."""

    def __init__(self, trial: TrialSettings, evaluation: EvaluationPlan, vocabulary: int | None) -> None:
        """evaluation: what is asked of every evaluation. vocabulary: None where it is not known, and not checked."""
        lengths = (trial.max_response_tokens, trial.max_reflection_tokens, trial.max_prompt_tokens)
        temperature = evaluation.sampling.temperature
        self._vocabulary = vocabulary
        self._max_turns = trial.max_turns
        self._leased = {
            Purpose.TRAIN: _Leased(trial.episodes, trial.memory.has_reflections, trial.temperature, *lengths),
            Purpose.EVALUATE: _Leased(evaluation.episodes, evaluation.memory.has_reflections, temperature, *lengths),
        }

    def problem(self, trial: Trial, newest_version: int) -> str:
        """Why no honest actor can have sent this trial, "" if one can. newest_version: the highest published."""
        leased = self._leased[trial.purpose]
        return (
            name_problem(trial.actor)
            or _outside("seconds", trial.seconds, 0.0, LONGEST_SECONDS)
            or _outside("the number of episodes", len(trial.episodes), 0, leased.episodes)
            or _outside("the number of reflections", len(trial.reflections), 0, _most_reflections(leased))
            or next(filter(None, map(self._problem_of_turn, _turns(trial))), "")
            or self._problem_of_lengths(trial, leased)
            or next(filter(None, (self._problem_of(each, leased, newest_version) for each in trial.completions())), "")
        )

    def _problem_of_turn(self, turn: Turn) -> str:
        score = 0.0 if turn.score is None else turn.score
        return _outside("a reward", turn.reward, -MAX_REWARD, MAX_REWARD) or (
            "" if math.isfinite(score) else f"a score is {score}, which is not finite"
        )

    def _problem_of_lengths(self, trial: Trial, leased: _Leased) -> str:
        longest_episode = max((len(episode.turns) for episode in trial.episodes), default=0)
        longest_turn = max((len(turn.completion.ids) for turn in _turns(trial)), default=0)
        longest_remark = max((len(each.completion.ids) for each in trial.reflections), default=0)
        return (
            _outside("the number of turns", longest_episode, 0, self._max_turns or _MAX_COUNT)
            or _outside("the length of a response", longest_turn, 0, leased.response_tokens)
            or _outside("the length of a reflection", longest_remark, 0, leased.reflection_tokens)
        )

    def _problem_of(self, completion: Completion, leased: _Leased, newest_version: int) -> str:
        low, high = float(completion.behaviour_logprobs.min()), float(completion.behaviour_logprobs.max())
        versions = [span.version for span in completion.versions]
        if completion.temperature != leased.temperature:
            return f"a temperature is {completion.temperature}, leased was {leased.temperature}"
        return (
            self._problem_of_ids(completion.ids)
            or self._problem_of_ids(completion.prompt_ids)
            or _outside("the length of a prompt", len(completion.prompt_ids), 1, leased.prompt_tokens)
            or _outside("a logprob", low, MIN_LOGPROB, MAX_LOGPROB)
            or _outside("a logprob", high, MIN_LOGPROB, MAX_LOGPROB)
            or _outside("a policy version", min(versions), 0, newest_version)
            or _outside("a policy version", max(versions), 0, newest_version)
            or _outside("cached_tokens", completion.cached_tokens, 0, _MAX_COUNT)
            or _outside("left_out_tokens", completion.left_out_tokens, 0, _MAX_COUNT)
        )

    def _problem_of_ids(self, ids: np.ndarray) -> str:
        most = _MAX_COUNT if self._vocabulary is None else self._vocabulary - 1
        return _outside("a token id", int(ids.min()), 0, most) or _outside("a token id", int(ids.max()), 0, most)


def with_logprobs_at_most_zero(trial: Trial) -> Trial:
    """The same trial, or one in which the log-probabilities that rounding took above 0 are 0."""
    if all(float(each.behaviour_logprobs.max()) <= 0.0 for each in trial.completions()):
        return trial
    replace = msgspec.structs.replace

    def lowered(completion: Completion) -> Completion:
        return replace(completion, behaviour_logprobs=np.minimum(completion.behaviour_logprobs, np.float32(0.0)))

    episodes = tuple(
        replace(episode, turns=tuple(replace(turn, completion=lowered(turn.completion)) for turn in episode.turns))
        for episode in trial.episodes
    )
    reflections = tuple(replace(each, completion=lowered(each.completion)) for each in trial.reflections)
    return replace(trial, episodes=episodes, reflections=reflections)


def _turns(trial: Trial) -> list[Turn]:
    return [turn for episode in trial.episodes for turn in episode.turns]


def _most_reflections(leased: _Leased) -> int:
    return leased.episodes if leased.has_reflections else 0


def _outside(name: str, value: float, low: float, high: float) -> str:
    """Why a value is refused: it is not within [low, high], as nothing is that is no number."""
    return "" if low <= value <= high else f"{name} is {value}, which is not within {low} .. {high}"
