"""Policy and value losses. Pure functions of flat tensors; N response tokens, R responses.

Per token, with r(base) = pi_theta / pi_base, clip(r) = r limited to 1 - clip_low .. 1 + clip_high, and sg = no gradient
through it. pi_behave sampled the token; pi_prox is the policy that the update starts from. They differ by the token's
staleness, and by the engine's rounding.

    decoupled_ppo   w * max(-A r(prox), -A clip(r(prox))),  w = sg(min(pi_prox / pi_behave, importance_cap))
                    Hilton et al., 2022, as in AReaL (Fu et al., 2025): the trust region is around pi_prox, and w
                    corrects for the older policy that sampled the tokens
    uncorrected     max(-A r(prox), -A clip(r(prox)))       the same without w: stale tokens are taken for fresh ones
    ppo_clip        max(-A r(behave), -A clip(r(behave)))   Schulman et al., 2017; under staleness the trust region is
                    around an old policy, and holds back a step that only makes up for it
    tis             -sg(min(r(behave), importance_cap)) * A * log pi_theta
                    Espeholt et al., 2018 (V-trace's truncated weights); Yao et al., 2025: no trust region at all
    cispo           -sg(clip(r(behave))) * A * log pi_theta                      MiniMax, 2025 (CISPO): no token loses
                    its gradient; clip_low 1 leaves the weight without a lower bound
    gspo            max(-A s, -A clip(s)),  s = exp(mean of log r(behave) over the response)        Zheng et al., 2025:
                    one ratio a response; its ranges are far smaller (the paper's: 3e-4 and 4e-4)

Where a ratio is clipped with `max`, the loss for A < 0 is at most -A * dual_clip (Ye et al., 2020). Log ratios are
limited to +-20 before exp.

Losses are sums divided by the number of response tokens of the whole minibatch, which the caller passes in: the same
result for any packing. (The reference averages over micro-batches, so its loss depends on how samples are packed.)
gspo's are weighted so that the same division gives its mean over responses, and value losses are divided by their own
number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lamer.common.settings import LossSettings

_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0
_AROUND_PROXIMAL = ("decoupled_ppo", "uncorrected")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Logprobs of the same tokens under three policies, float32 [N] each.

    current: being trained, with gradient. proximal: when the update began. behaviour: that sampled the tokens.
    """

    current: torch.Tensor
    proximal: torch.Tensor
    behaviour: torch.Tensor


@dataclass(frozen=True, slots=True)
class ResponseTokens:
    """Which tokens are one response. index: int64 [N], of the response of each token. lengths: int64 [R], its tokens.
    mean_length: tokens a response over the whole minibatch.
    """

    index: torch.Tensor
    lengths: torch.Tensor
    mean_length: float


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Per-token losses, float32 [N] with gradient, and which tokens were limited, bool [N] each.

    clipped: the clipped branch was the larger; for cispo, the weight was limited. dual_clipped: the bound for A < 0
    held. capped: the importance weight was over importance_cap.
    """

    losses: torch.Tensor
    clipped: torch.Tensor
    dual_clipped: torch.Tensor
    capped: torch.Tensor


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """Per-response losses, float32 [R] with gradient, and whether the limited value's error was larger, bool [R]."""

    losses: torch.Tensor
    clipped: torch.Tensor


def needs_proximal(settings: LossSettings) -> bool:
    """Whether the loss measures its step from the policy that the update starts from."""
    return settings.kind in _AROUND_PROXIMAL


def ratio(logprobs: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """exp(logprobs - base), the difference limited to +-20."""
    return (logprobs - base).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()


def clip(ratios: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """Ratios limited to 1 - clip_low .. 1 + clip_high."""
    return ratios.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)


def clipped_losses(
    ratios: torch.Tensor, advantages: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's clipped loss with the dual clip.

    Returns:
        losses [N], whether the clipped branch was the larger [N], whether the dual clip held [N].
    """
    plain = -advantages * ratios
    clipped = -advantages * clip(ratios, settings)
    worst = torch.maximum(plain, clipped)
    bound = -advantages * settings.dual_clip
    is_bounded = (advantages < 0) & (worst > bound)
    return torch.where(is_bounded, bound, worst), clipped > plain, is_bounded


def response_ratios(logprobs: torch.Tensor, base: torch.Tensor, responses: ResponseTokens) -> torch.Tensor:
    """GSPO's ratio of each token's response, [N]: exp of the mean log ratio over the response's tokens."""
    zeros = torch.zeros(len(responses.lengths), dtype=logprobs.dtype, device=logprobs.device)
    means = zeros.index_put((responses.index,), logprobs - base, accumulate=True) / responses.lengths
    return means.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()[responses.index]


def policy_loss(
    logprobs: TokenLogprobs, advantages: torch.Tensor, responses: ResponseTokens, settings: LossSettings
) -> PolicyLoss:
    """The configured loss of every token.

    Args:
        logprobs: of the sampled tokens under the current, proximal and behaviour policy.
        advantages: float32 [N], the same for all tokens of a response.
        responses: of which response each token is.
        settings: kind, clips and cap.
    """
    nowhere = torch.zeros_like(advantages, dtype=torch.bool)
    if settings.kind in _AROUND_PROXIMAL:
        losses, clipped, bounded = clipped_losses(ratio(logprobs.current, logprobs.proximal), advantages, settings)
        if settings.kind == "uncorrected":
            return PolicyLoss(losses, clipped, bounded, nowhere)
        weights = ratio(logprobs.proximal, logprobs.behaviour).detach()
        capped = weights > settings.importance_cap
        return PolicyLoss(losses * weights.clamp(max=settings.importance_cap), clipped, bounded, capped)
    if settings.kind == "gspo":
        ratios = response_ratios(logprobs.current, logprobs.behaviour, responses)
        losses, clipped, bounded = clipped_losses(ratios, advantages, settings)
        weights = responses.mean_length / responses.lengths.to(losses.dtype)[responses.index]
        return PolicyLoss(losses * weights, clipped, bounded, nowhere)
    ratios = ratio(logprobs.current, logprobs.behaviour)
    if settings.kind == "ppo_clip":
        losses, clipped, bounded = clipped_losses(ratios, advantages, settings)
        return PolicyLoss(losses, clipped, bounded, nowhere)
    weights = ratios.detach()
    if settings.kind == "tis":
        limited = weights.clamp(max=settings.importance_cap)
        return PolicyLoss(-limited * advantages * logprobs.current, nowhere, nowhere, limited < weights)
    limited = clip(weights, settings)
    return PolicyLoss(-limited * advantages * logprobs.current, limited != weights, nowhere, nowhere)


def value_loss(values: torch.Tensor, before: torch.Tensor, targets: torch.Tensor, limit: float) -> ValueLoss:
    """Half the squared error of values; with a limit above 0 the larger of that and the error of the limited values.

    As in the PPO2 code of Schulman et al., 2017: a value that moved further than `limit` since the update began gains
    nothing by it, and still pays for having moved the wrong way.

    Args:
        values: float32 [R] with gradient.
        before: float32 [R], when the update began.
        targets: float32 [R].
        limit: in units of reward; 0: none.
    """
    plain = (values - targets).square()
    if not limit:
        return ValueLoss(0.5 * plain, torch.zeros_like(targets, dtype=torch.bool))
    limited = (before + (values - before).clamp(-limit, limit) - targets).square()
    return ValueLoss(0.5 * torch.maximum(plain, limited), limited > plain)


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
