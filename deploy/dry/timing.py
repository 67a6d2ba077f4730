"""Estimated seconds of an update and hours of a run. Pure functions; every constant is an assumption about an H100.

Training is bound by arithmetic: 6 operations a parameter and token for the forward and backward pass, and 2 for every
further forward pass (Kaplan et al., 2020, which leaves attention's products out). Decoding is bound by memory: every
step reads the weights once and the cache of every running sequence, and gives each of them one token. Rollout and
training go on side by side on GPUs of their own, so that an update takes the longer of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.settings import Settings
from lamer.deploy.dry.workload import Load
from lamer.learner.memory.architecture import Architecture
from lamer.learner.memory.server import ServerMemory


@dataclass(frozen=True, slots=True)
class Hardware:
    """An H100 SXM and the shares of its peaks that are assumed to be reached.

    flops: dense bfloat16 operations a second. bandwidth: bytes a second. step_overhead: seconds of a decode step that
    are no reading. uncached: share of prompt tokens that no prefix cache holds.
    """

    flops: float = 989e12
    bandwidth: float = 3.35e12
    training_share: float = 0.3
    prefill_share: float = 0.5
    decode_share: float = 0.6
    step_overhead: float = 0.002
    uncached: float = 0.3


@dataclass(frozen=True, slots=True)
class RolloutPace:
    """What one replica does. running: sequences at once. tokens_per_second: generated while it decodes."""

    running: int
    tokens_per_second: float
    prefill_rate: float


def operations_per_token(model: Architecture, settings: Settings, *, is_checkpointed: bool) -> float:
    """Operations of the trainer for each token of a batch.

    6 N for the update; 2 N (1 - 1 / minibatches) for the proximal logprobs of all minibatches but the first; 2 N to
    compute layers again with checkpointing; 2 N for the KL reference; 8 N for a separate critic (values, then update).
    """
    minibatches = settings.optimizer.minibatches
    passes = 6.0
    if settings.loss.kind == "decoupled_ppo":
        passes += 2.0 * (1.0 - 1.0 / minibatches)
    if is_checkpointed:
        passes += 2.0
    if settings.loss.kl_weight > 0:
        passes += 2.0
    if settings.advantage.estimator == "ppo" and settings.critic.kind == "separate":
        passes += 8.0
    return passes * model.parameters


def training_seconds(operations: float, tokens: float, gpus: int, hardware: Hardware) -> float:
    """Seconds to train on `tokens` tokens of `operations` operations each.

    6 x 4e9 a token, 1e6 tokens, one GPU at 0.3 of 989e12: 2.4e16 / 2.967e14 = 80.9 s.
    """
    return operations * tokens / (gpus * hardware.training_share * hardware.flops)


def rollout_pace(
    model: Architecture, server: ServerMemory, most: int, tokens: float, gpus: int, hardware: Hardware
) -> RolloutPace:
    """A replica of `gpus` GPUs with at most `most` sequences of `tokens` tokens each on average while they are decoded.

    A step takes step_overhead + (weights + running x tokens x cache_token) / (decode_share x bandwidth) seconds.
    """
    running = max(1, min(most, int(server.fitting_tokens / tokens)))
    read = server.weights + server.cache(running, tokens)
    step = hardware.step_overhead + read / (hardware.decode_share * hardware.bandwidth)
    prefill = gpus * hardware.prefill_share * hardware.flops / (2.0 * model.parameters)
    return RolloutPace(running, running / step, prefill)


def rollout_seconds(load: Load, pace: RolloutPace, replicas: int, hardware: Hardware) -> float:
    """Seconds in which `replicas` busy replicas play `load`: its responses decoded, its new prompt tokens read."""
    decode = load.response_tokens / pace.tokens_per_second
    return (decode + load.prompt_tokens * hardware.uncached / pace.prefill_rate) / replicas
