"""What one update is made of: trajectories, responses, tokens. Pure functions of the settings.

A trial plays episodes until the first success, with a reflection between two; a response is one turn or one
reflection, and one training sample with its own prompt. The worst case is that nothing is ever solved and every length
is the most that the settings allow. What is expected rests on `Habits`, which are assumed, and on prompts measured by
scripted play.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lamer.common.settings import Settings


@dataclass(frozen=True, slots=True)
class Habits:
    """How a policy is assumed to play: the traffic of the rollout benchmark (docs/paper-configs.md).

    success: chance that an episode is solved. turn_share: of the turns that an episode may have. Response lengths are
    log-normal with this median and sigma, in tokens.
    """

    success: float = 0.45
    turn_share: float = 0.8
    response_median: float = 320.0
    response_sigma: float = 0.55

    def response_tokens(self, most: int) -> float:
        """Mean length of a response of at most `most` tokens: E[min(X, most)], X log-normal.

        320 and 0.55 give 372 without a limit and 365 under 1024.
        """
        mean = self.response_median * math.exp(self.response_sigma**2 / 2)
        z = (math.log(most) - math.log(self.response_median)) / self.response_sigma
        return mean * _normal(z - self.response_sigma) + most * (1.0 - _normal(z))


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Tokens of prompts in scripted play. first: of the first turn. play, reflection: means; longest: of any.

    reflection is 0 where none was asked for. is_estimate: counted from the text without the model's tokenizer.
    """

    first: int
    play: float
    reflection: float
    longest: int
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Numbers of one kind of case. Prompt tokens are those of every response, before packing shares any."""

    episodes: float
    turns: float
    reflections: float
    prompt_tokens: float
    response_tokens: float

    @property
    def responses(self) -> float:
        """Turns and reflections: training samples, and requests to the inference servers."""
        return self.turns + self.reflections

    @property
    def tokens(self) -> float:
        """Prompts and responses."""
        return self.prompt_tokens + self.response_tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """An update's trials, and what they amount to."""

    trials: int
    expected: Load
    worst: Load


def episodes_per_trial(success: float, episodes: int) -> float:
    """Mean number of episodes of a trial that ends at its first success: sum of (1 - success)^k, k < episodes.

    0.45 and three episodes: 1 + 0.55 + 0.3025 = 1.8525.
    """
    return sum((1.0 - success) ** k for k in range(episodes))


def workload(settings: Settings, max_turns: int, prompts: PromptLengths, habits: Habits) -> Workload:
    """One update of `batch.groups` x `batch.group_size` trials.

    Args:
        max_turns: turns of an episode, the environment's own or `trial.max_turns`.
    """
    trials = settings.batch.groups * settings.batch.group_size
    return Workload(
        trials,
        expected=expected_load(settings, trials, settings.trial.episodes, max_turns, prompts, habits),
        worst=_worst(settings, trials, max_turns),
    )


def expected_load(
    settings: Settings, trials: int, episodes: int, max_turns: int, prompts: PromptLengths, habits: Habits
) -> Load:
    """What `trials` trials of up to `episodes` episodes are expected to amount to."""
    trial = settings.trial
    played = trials * episodes_per_trial(habits.success, episodes)
    turns = played * max(1.0, habits.turn_share * max_turns)
    reflections = played - trials if trial.memory.has_reflections else 0.0
    return Load(
        episodes=played,
        turns=turns,
        reflections=reflections,
        prompt_tokens=turns * prompts.play + reflections * prompts.reflection,
        response_tokens=turns * habits.response_tokens(trial.max_response_tokens)
        + reflections * habits.response_tokens(trial.max_reflection_tokens),
    )


def _worst(settings: Settings, trials: int, max_turns: int) -> Load:
    trial = settings.trial
    played = float(trials * trial.episodes)
    turns, reflections = played * max_turns, played - trials if trial.memory.has_reflections else 0.0
    return Load(
        episodes=played,
        turns=turns,
        reflections=reflections,
        prompt_tokens=(turns + reflections) * trial.max_prompt_tokens,
        response_tokens=turns * trial.max_response_tokens + reflections * trial.max_reflection_tokens,
    )


def _normal(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))
