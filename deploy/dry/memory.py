"""GPU memory in bytes, of the trainer and of an inference server. Pure functions of an architecture.

The trainer keeps float32 parameters, gradients and both AdamW moments: 16 bytes a parameter, sharded evenly over its
GPUs. What a forward pass keeps for the backward one was counted on this trainer (`learner.trainer.model.policy` with
packs that share no prefix, saved tensors, Qwen3 layers): bytes a token and layer, as a sum over widths,

    bfloat16   26 hidden + 8 intermediate + 14 query + 8 key      (the residual stream stays float32 under autocast)
    float32    24 hidden + 16 intermediate + 24 query + 12 key

With checkpointing a layer keeps its float32 input, and one layer at a time is computed again in full. Allocator
fragments, CUDA's own memory (1 to 2 GB) and attention's workspace are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamer.common.settings import Settings
from lamer.deploy.dry.architecture import Architecture

GPU_BYTES = 80e9
"""An H100 with 80 GB, before CUDA takes its share."""

SERVED_SHARE = 0.85
"""Of a GPU's memory that an inference server gives to weights and key-value cache."""

STATE_BYTES = 16
"""A trained parameter: float32 value, gradient and two moments."""

LOGIT_BYTES = 26
"""A logit: bfloat16 from the head, and float32 six times: raw, log-softmax, exp, their product, two gradients."""


@dataclass(frozen=True, slots=True)
class TrainerMemory:
    """Bytes on each of the trainer's GPUs.

    copies: of weights in the forward pass's dtype: all of them on one GPU, which autocast keeps during a pass; of two
    layers and the embeddings where they are sharded. others: states of a separate critic and the KL reference. A
    separate critic has copies and activations of its own as well, since one backward pass is for both.
    """

    parameters: float
    gradients: float
    moments: float
    copies: float
    others: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        states = self.parameters + self.gradients + self.moments + self.others
        return states + self.copies + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Bytes on each GPU of one replica, and what its key-value cache holds.

    cache_token: of one token. fitting_tokens: tokens for which a GPU of `GPU_BYTES` has room, 0 where not even the
    weights fit.
    """

    weights: float
    cache_token: float
    fitting_tokens: int

    def cache(self, sequences: int, tokens: float) -> float:
        """Bytes of the cache of so many sequences of so many tokens each."""
        return sequences * tokens * self.cache_token


def activation_bytes(model: Architecture, tokens: int, *, is_bfloat16: bool, is_checkpointed: bool) -> float:
    """What the layers keep for the backward pass over `tokens` tokens.

    Qwen3-4B in bfloat16, a token: 209,920 in a layer, 7,557,120 in all 36; 578,560 with checkpointing.
    """
    widths = (model.hidden, model.intermediate, model.query_size, model.key_size)
    weights = (26, 8, 14, 8) if is_bfloat16 else (24, 16, 24, 12)
    layer = sum(weight * width for weight, width in zip(weights, widths, strict=True))
    if is_checkpointed:
        return float(tokens * (4 * model.hidden * model.layers + layer))
    return float(tokens * layer * model.layers)


def logit_bytes(model: Architecture, rows: int, head_values: int) -> float:
    """What the output head holds at once: `rows` rows of logits, at most `head_values` values."""
    return float(min(rows, max(1, head_values // model.vocabulary)) * model.vocabulary * LOGIT_BYTES)


def trainer_memory(
    model: Architecture,
    settings: Settings,
    gpus: int,
    pack_tokens: int,
    head_values: int,
    *,
    is_bfloat16: bool,
    is_checkpointed: bool,
) -> TrainerMemory:
    """One of the trainer's `gpus` GPUs, while it computes a pack of `pack_tokens` tokens.

    head_values: most logits that the head keeps (`learner.trainer.model.scorer.HEAD_VALUES`).
    """
    share = 4.0 * model.parameters / gpus
    has_critic = settings.advantage.estimator == "ppo" and settings.critic.kind == "separate"
    models = 2 if has_critic else 1
    others = STATE_BYTES / 4 * (models - 1) + (1.0 if settings.loss.kl_weight > 0 else 0.0)
    if not is_bfloat16:
        copies = 0.0
    elif gpus == 1:
        copies = 2.0 * model.parameters
    else:
        embeddings = model.embedding_parameters * (1 if model.is_tied else 2)
        copies = 2.0 * (embeddings + 2 * (model.parameters - embeddings) / model.layers)
    activations = activation_bytes(model, pack_tokens, is_bfloat16=is_bfloat16, is_checkpointed=is_checkpointed)
    return TrainerMemory(
        parameters=share,
        gradients=share,
        moments=2 * share,
        copies=models * copies,
        others=others * share,
        activations=models * activations,
        logits=logit_bytes(model, pack_tokens, head_values),
    )


def server_memory(model: Architecture, tensor_parallel: int) -> ServerMemory:
    """One replica over `tensor_parallel` GPUs: bfloat16 weights and key-value cache, divided between them.

    Qwen3-4B: 8.04 GB of weights, 2 x 36 layers x 1024 x 2 = 147,456 bytes of cache a token.
    """
    weights = 2.0 * model.parameters / tensor_parallel
    cache_token = 2.0 * 2.0 * model.layers * model.key_size / tensor_parallel
    room = max(0.0, SERVED_SHARE * GPU_BYTES - weights)
    return ServerMemory(weights, cache_token, int(room / cache_token))
