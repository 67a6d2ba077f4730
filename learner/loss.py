"""The token-level policy loss. Pure functions of flat tensors with one entry a response token, all [N].

    decoupled_ppo   w * max(-A r, -A clip(r)),  r = pi_theta / pi_prox,  w = min(pi_prox / pi_behave, importance_cap)
                    Hilton et al., 2022, as in AReaL (Fu et al., 2025): the trust region is around the policy that the
                    update starts from, and w corrects for the older (or the engine's) policy that sampled the tokens
    ppo_clip        max(-A r, -A clip(r)),      r = pi_theta / pi_behave                  Schulman et al., 2017

clip(r) = r limited to 1 - clip_low .. 1 + clip_high. For A < 0 the loss is at most -A * dual_clip (Ye et al., 2020).
Log ratios are limited to +-20 before exp.

Losses are sums divided by the number of response tokens of the whole minibatch, which the caller passes in: the same
result for any packing. (The reference averages over micro-batches, so its loss depends on how samples are packed.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common.settings import LossSettings

_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Logprobs of the same tokens under three policies, float32 [N] each.

    current: being trained, with gradient. proximal: when the update began. behaviour: that sampled the tokens.
    """

    current: torch.Tensor
    proximal: torch.Tensor
    behaviour: torch.Tensor


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Per-token losses, float32 [N] with gradient, and which tokens were limited, bool [N] each.

    clipped: the clipped branch was the larger. dual_clipped: the bound for A < 0 held. capped: w was over
    importance_cap.
    """

    losses: torch.Tensor
    clipped: torch.Tensor
    dual_clipped: torch.Tensor
    capped: torch.Tensor


def ratio(logprobs: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """exp(logprobs - base), the difference limited to +-20."""
    return (logprobs - base).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clipped_losses(
    logprobs: torch.Tensor, base: torch.Tensor, advantages: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's clipped loss with the dual clip, against the policy `base`.

    Returns:
        losses [N], whether the clipped branch was the larger [N], whether the dual clip held [N].
    """
    r = ratio(logprobs, base)
    plain = -advantages * r
    clipped = -advantages * r.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    worst = torch.maximum(plain, clipped)
    bound = -advantages * settings.dual_clip
    is_bounded = (advantages < 0) & (worst > bound)
    return torch.where(is_bounded, bound, worst), clipped > plain, is_bounded


def policy_loss(logprobs: TokenLogprobs, advantages: torch.Tensor, settings: LossSettings) -> PolicyLoss:
    """The configured loss of every token.

    Args:
        logprobs: of the sampled tokens under the current, proximal and behaviour policy.
        advantages: float32 [N].
        settings: kind, clips and cap.
    """
    if settings.kind == "ppo_clip":
        losses, clipped, bounded = clipped_losses(logprobs.current, logprobs.behaviour, advantages, settings)
        return PolicyLoss(losses, clipped, bounded, torch.zeros_like(clipped))
    losses, clipped, bounded = clipped_losses(logprobs.current, logprobs.proximal, advantages, settings)
    weights = ratio(logprobs.proximal, logprobs.behaviour).detach()
    capped = weights > settings.importance_cap
    return PolicyLoss(losses * weights.clamp(max=settings.importance_cap), clipped, bounded, capped)


def k3_kl(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: exp(d) - d - 1, d = reference - logprobs.

    d is limited to +-20 and the estimate to 10.
    """
    difference = (reference - logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (difference.exp() - difference - 1.0).clamp(-_KL_LIMIT, _KL_LIMIT)


def effective_share(weights: torch.Tensor) -> float:
    """Effective sample size of importance weights as a share of their number: (sum w)^2 / (N sum w^2), 1 when all are
    equal.
    """
    weights = weights.double()
    return float(weights.sum().square() / (len(weights) * weights.square().sum()))


def entropy_coefficient(settings: LossSettings, step: int, updates: int) -> float:
    """The entropy bonus of update `step` (1, 2, ...): linear from `entropy` at the first to `entropy_final` at the
    last.
    """
    progress = min(1.0, (step - 1) / max(1, updates - 1))
    return settings.entropy + (settings.entropy_final - settings.entropy) * progress
