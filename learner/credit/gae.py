"""Generalised advantage estimation over the responses of one trial (Schulman et al., 2016), for PPO. No torch.

A step is a response; its value V is what the critic expects at its prompt. Within episode n, with the discount gamma of
a step and L = trial_discount * (lambda-return of the first step of episode n + 1), 0 after the last episode:

    A_t = delta_t + gamma * gae_lambda * A_(t+1)                      lambda-return of a step = A_t + V_t

    delta_t = r_t + gamma * V_(t+1) + (1 - gamma) * L - V_t           form "paper", before the last step
    delta_t = r_t + gamma * V_(t+1) - V_t                             form "reference", before the last step
    delta_t = r_t + L - V_t                                           both, at the last step

V_(t+1) stands for the rest of the episode and for everything after it. In Eq. 4 what comes from later episodes is not
discounted by the steps before it, hence the term (1 - gamma) * L; the reference's recursion discounts all of it. With
gae_lambda 1 an advantage is exactly the return of `learner.credit.returns` less the value.

A reflection answers for the episode that follows: its advantage is the lambda-return of that episode's first step, less
what an invalid reflection costs, less its own value.

Worked example, form "paper": gamma, gae_lambda and trial_discount 0.5, two episodes of 2 steps, rewards 0, 0 | 0, 8,
all values 2. Episode 1: delta_1 = 8 - 2 = 6, delta_0 = 0 + 1 - 2 = -1, so A = 0.5, 6 and lambda-returns 2.5, 8.
Episode 0: L = 1.25; delta_1 = 1.25 - 2 = -0.75, delta_0 = 1 + 0.625 - 2 = -0.375, so A = -0.5625, -0.75.
A reflection between them with value 2: 2.5 - 2 = 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamer.learner.credit.returns import Form, Returns

Floats = Sequence[float]


@dataclass(frozen=True, slots=True)
class GaeSettings:
    """Form and discounts of the returns (`learner.credit.returns`), and lambda: 0 trusts the critic, 1 the returns."""

    form: Form
    step_discount: float
    trial_discount: float
    gae_lambda: float


@dataclass(frozen=True, slots=True)
class TrialSteps:
    """What is known of a trial's responses; every episode has a step.

    rewards[n][t], values[n][t]: of step t of episode n. reflection_rewards[n], reflection_values[n]: of the reflection
    between episodes n and n + 1; its reward is what an invalid one costs, negative, or 0.
    """

    rewards: Sequence[Floats]
    values: Sequence[Floats]
    reflection_rewards: Floats
    reflection_values: Floats


@dataclass(frozen=True, slots=True)
class TrialAdvantages:
    """Advantages in the shape of `TrialSteps`: turns[n][t], reflections[n]."""

    turns: Returns
    reflections: tuple[float, ...]


def episode_advantages(rewards: Floats, values: Floats, later: float, settings: GaeSettings) -> list[float]:
    """Advantages of one episode's steps.

    Args:
        rewards: r_0 .. r_(T-1).
        values: V_0 .. V_(T-1).
        later: L, what later episodes give.
        settings: discounts and form.
    """
    gamma = settings.step_discount
    between = (1.0 - gamma) * later if settings.form == "paper" else 0.0
    following, advantage = later, 0.0
    found: list[float] = []
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        delta = reward + following - value
        advantage = delta + gamma * settings.gae_lambda * advantage
        following = gamma * value + between
        found.append(advantage)
    return found[::-1]


def trial_advantages(steps: TrialSteps, settings: GaeSettings) -> TrialAdvantages:
    """Advantages of all steps and reflections of a trial, from its last episode to its first."""
    later = 0.0
    turns: list[tuple[float, ...]] = []
    first_returns: list[float] = []
    for rewards, values in zip(reversed(steps.rewards), reversed(steps.values), strict=True):
        advantages = episode_advantages(rewards, values, later, settings)
        first_returns.append(advantages[0] + values[0])
        later = settings.trial_discount * first_returns[-1]
        turns.append(tuple(advantages))
    followed = first_returns[::-1][1:]
    reflections = zip(followed, steps.reflection_rewards, steps.reflection_values, strict=False)
    return TrialAdvantages(
        turns=tuple(reversed(turns)),
        reflections=tuple(outcome + reward - value for outcome, reward, value in reflections),
    )
