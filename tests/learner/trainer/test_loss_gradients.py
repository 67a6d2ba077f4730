"""The gradient of every loss agrees with central finite differences of its formula, in float64.

The policy is a table of logits, one row a token, so that gradients pass through the softmax. The formulas are written
here once more, in numpy and token by token. What a loss holds constant (its importance weights) the formula takes from
the point at which the gradient is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lamer.common.settings import LossSettings
from lamer.learner.trainer.loss import ResponseTokens, TokenLogprobs, k3_kl, policy_loss, value_loss

STEP = 1e-6
VOCABULARY = 5
LENGTHS = [3, 1, 4, 2]
RESPONSE = np.repeat(np.arange(4), LENGTHS)
TOKENS = len(RESPONSE)
ADVANTAGES = np.array([1.5, -0.8, -2.0, 0.6])[RESPONSE]
SETTINGS = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 2.0, "importance_cap": 1.4}
KINDS = ("decoupled_ppo", "uncorrected", "ppo_clip", "tis", "cispo", "gspo")


@dataclass(frozen=True)
class Play:
    """Random logits [N, V], sampled tokens [N], and logprobs [N] of the other policies, somewhat away from them."""

    logits: np.ndarray
    chosen: np.ndarray
    proximal: np.ndarray
    behaviour: np.ndarray
    reference: np.ndarray

    def logprobs(self, logits: np.ndarray) -> np.ndarray:
        table = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return table[np.arange(TOKENS), self.chosen]


def play(seed: int = 0) -> Play:
    rng = np.random.default_rng(seed)
    logits, chosen = rng.normal(size=(TOKENS, VOCABULARY)), rng.integers(VOCABULARY, size=TOKENS)
    found = Play(logits, chosen, np.zeros(0), np.zeros(0), np.zeros(0))
    away = [found.logprobs(logits + rng.normal(scale=0.6, size=logits.shape)) for _ in range(3)]
    return Play(logits, chosen, *away)


def finite_differences(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = STEP
        gradient[index] = (function(at + step) - function(at - step)) / (2 * STEP)
    return gradient


def limited(ratio: float) -> float:
    return min(max(ratio, 1 - SETTINGS["clip_low"]), 1 + SETTINGS["clip_high"])


def ppo(ratio: float, advantage: float) -> float:
    loss = max(-advantage * ratio, -advantage * limited(ratio))
    return min(loss, -advantage * SETTINGS["dual_clip"]) if advantage < 0 else loss


def formula(kind: str, data: Play, logits: np.ndarray) -> float:
    """The loss by the books: a sum over tokens / tokens, for gspo a sum over responses / responses."""
    now, start = data.logprobs(logits), data.logprobs(data.logits)
    if kind == "gspo":
        means = [np.mean((now - data.behaviour)[response == RESPONSE]) for response in range(4)]
        firsts = [int(np.argmax(response == RESPONSE)) for response in range(4)]
        return sum(ppo(np.exp(mean), ADVANTAGES[first]) for mean, first in zip(means, firsts, strict=True)) / 4
    total = 0.0
    for token in range(TOKENS):
        advantage, cap = ADVANTAGES[token], SETTINGS["importance_cap"]
        held = np.exp(start[token] - data.behaviour[token])
        if kind == "decoupled_ppo":
            weight = min(np.exp(data.proximal[token] - data.behaviour[token]), cap)
            total += weight * ppo(np.exp(now[token] - data.proximal[token]), advantage)
        elif kind == "uncorrected":
            total += ppo(np.exp(now[token] - data.proximal[token]), advantage)
        elif kind == "ppo_clip":
            total += ppo(np.exp(now[token] - data.behaviour[token]), advantage)
        elif kind == "tis":
            total -= min(held, cap) * advantage * now[token]
        else:
            total -= limited(held) * advantage * now[token]
    return total / TOKENS


def by_torch(kind: str, data: Play, logits: torch.Tensor, order: np.ndarray) -> torch.Tensor:
    """The code's loss of the tokens in some order, divided as `learner.trainer.objective` does."""
    index = torch.from_numpy(RESPONSE[order])
    logprobs = torch.log_softmax(logits, dim=1)[torch.arange(TOKENS), torch.from_numpy(data.chosen)][order]
    tokens = TokenLogprobs(logprobs, torch.from_numpy(data.proximal[order]), torch.from_numpy(data.behaviour[order]))
    responses = ResponseTokens(index, torch.tensor(LENGTHS), TOKENS / 4)
    loss = policy_loss(tokens, torch.from_numpy(ADVANTAGES[order]), responses, LossSettings(kind=kind, **SETTINGS))
    return loss.losses.sum() / TOKENS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_policy_losses_and_their_gradients(kind: str, seed: int) -> None:
    data = play(seed)
    logits = torch.tensor(data.logits, requires_grad=True)
    order = np.random.default_rng(seed).permutation(TOKENS)  # a pack's tokens are not sorted by response
    loss = by_torch(kind, data, logits, order)
    loss.backward()
    assert loss.item() == pytest.approx(formula(kind, data, data.logits), abs=1e-12)
    expected = finite_differences(lambda at: formula(kind, data, at), data.logits)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_these_cases_hold_tokens_that_the_clip_or_the_cap_limits_and_some_that_it_does_not(kind: str) -> None:
    limits = []
    for seed in range(4):
        data = play(seed)
        tokens = TokenLogprobs(*map(torch.from_numpy, (data.logprobs(data.logits), data.proximal, data.behaviour)))
        responses = ResponseTokens(torch.from_numpy(RESPONSE), torch.tensor(LENGTHS), TOKENS / 4)
        loss = policy_loss(tokens, torch.from_numpy(ADVANTAGES), responses, LossSettings(kind=kind, **SETTINGS))
        limits.append(loss.capped if kind == "tis" else loss.clipped)
    assert 0 < torch.cat(limits).double().mean() < 1


def test_the_entropy_bonus() -> None:
    def entropy(at: np.ndarray) -> float:
        table = at - np.log(np.exp(at).sum(1, keepdims=True))
        return float(-(np.exp(table) * table).sum())

    data = play()
    logits = torch.tensor(data.logits, requires_grad=True)
    logprobs = torch.log_softmax(logits, dim=1)
    (-(logprobs.exp() * logprobs).sum()).backward()
    np.testing.assert_allclose(logits.grad.numpy(), finite_differences(entropy, data.logits), atol=1e-8)


def test_the_divergence_from_the_reference() -> None:
    def divergence(at: np.ndarray) -> float:
        difference = data.reference - data.logprobs(at)
        return float((np.exp(difference) - difference - 1).sum())

    data = play()
    logits = torch.tensor(data.logits, requires_grad=True)
    logprobs = torch.log_softmax(logits, dim=1)[torch.arange(TOKENS), torch.from_numpy(data.chosen)]
    loss = k3_kl(logprobs, torch.from_numpy(data.reference)).sum()
    loss.backward()
    assert loss.item() == pytest.approx(divergence(data.logits))
    np.testing.assert_allclose(logits.grad.numpy(), finite_differences(divergence, data.logits), atol=1e-8)


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_the_value_loss(limit: float) -> None:
    def loss(at: np.ndarray) -> float:
        total = 0.0
        for value, old, target in zip(at, before, targets, strict=True):
            moved = old + min(max(value - old, -limit), limit)
            worst = max((value - target) ** 2, (moved - target) ** 2) if limit else (value - target) ** 2
            total += 0.5 * worst
        return total

    rng = np.random.default_rng(0)
    before, targets = rng.normal(size=20), rng.normal(scale=2.0, size=20)
    start = before + rng.normal(scale=0.7, size=20)
    values = torch.tensor(start, requires_grad=True)
    found = value_loss(values, torch.from_numpy(before), torch.from_numpy(targets), limit)
    found.losses.sum().backward()
    assert found.losses.sum().item() == pytest.approx(loss(start))
    assert bool(found.clipped.any()) == (limit > 0)
    np.testing.assert_allclose(values.grad.numpy(), finite_differences(loss, start), atol=1e-8)
