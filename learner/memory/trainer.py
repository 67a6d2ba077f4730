"""Everything that the trainer holds on its device, at its peak.

States are there all the time: weights and gradients, moments, a separate critic's, the KL reference. What a pack adds
is largest at one of two moments: when the output head sends its gradient back, and everything that layers keep is still
there; or when a layer does, whose own part then stands in full beside the gradients of what it computed. Recomputed
layers are computed again one at a time. A separate critic's pass is kept beside the policy's, since one backward pass
is for both.

    AdamW                16 bytes a parameter: float32 weight, gradient, and two moments
    8-bit AdamW          a weight and a gradient in bfloat16, two moments of one byte with a float32 scale for each 256
    autocast             2 bytes a parameter that a product reads: of all layers, or of one where they are compiled or
                         recomputed
    head                 a chunk of logits, its gradient, and the gradient of the head's weight (`HeadRun`)

The allocator's fragments and CUDA's own memory are not in it: `CUDA_BYTES` are left to them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from lamer.learner.memory.activations import LayerRun, kept_bytes, layer_bytes
from lamer.learner.memory.architecture import Architecture

CUDA_BYTES = 3e9
"""Of a card, left to CUDA's context, to libraries and to what the allocator can't use."""

SMALL_MOMENT = 1.0 + 4.0 / 256
"""Bytes of a moment of 8 bits, its share of a scale included (torchao's blocks of 256)."""

_LAYER_WORK = 0.3
"""Gradients on their way through a layer, for each byte that the layer keeps: counted on this trainer."""


@dataclass(frozen=True, slots=True)
class HeadRun:
    """How the output head is computed.

    values: most logits at a time. value_bytes: for each of them at the peak. weight_bytes: for each value of the head's
    weight: its gradient, as it is summed, and a product on its way into it.
    """

    values: int
    value_bytes: float
    weight_bytes: float


PLAIN_HEAD = HeadRun(values=1 << 26, value_bytes=24.0, weight_bytes=4.0)
"""`learner.trainer.model.scorer` on a CPU, where a pack's logits fit into one chunk: torch keeps them."""

LINEAR_HEAD = HeadRun(values=1 << 26, value_bytes=16.0, weight_bytes=8.0)
"""`learner.trainer.model.head` on a CPU."""

CUDA_HEAD = HeadRun(values=1 << 28, value_bytes=10.0, weight_bytes=8.0)
"""The same on CUDA, where logits, their gradient and its bfloat16 copy are all that is there at once."""


@dataclass(frozen=True, slots=True)
class TrainerRun:
    """What the trainer is set to do.

    pack_tokens: of a pack, padding included. rows: of them that predict a response token, at most. has_small_states:
    `optimizer.kind: adamw_8bit`. critics: separate models beside the policy. references: models that are only asked.
    masks: bytes of masked attention's masks. has_optimizer: whether there are moments.
    """

    layers: LayerRun
    head: HeadRun
    pack_tokens: int
    rows: int
    has_small_states: bool
    critics: int = 0
    references: int = 0
    masks: float = 0.0
    has_optimizer: bool = True


@dataclass(frozen=True, slots=True)
class TrainerMemory:
    """Bytes at the peak. others: states of a separate critic and the KL reference. copies: that autocast makes.

    activations: kept by layers for the backward pass. work: what is on its way at the peak, the head's chunk or a
    layer's gradient.
    """

    weights: float
    gradients: float
    moments: float
    others: float
    copies: float
    activations: float
    work: float

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, part.name) for part in fields(self)))

    @property
    def states(self) -> float:
        """What is there whatever a pack holds."""
        return self.weights + self.gradients + self.moments + self.others


def trainer_memory(model: Architecture, run: TrainerRun) -> TrainerMemory:
    """What the trainer holds at its peak, with packs of `run.pack_tokens`."""
    weight = 2.0 if run.has_small_states else 4.0
    moments = 2 * SMALL_MOMENT if run.has_small_states else 8.0
    if not run.has_optimizer:
        moments = 0.0
    size = float(model.parameters)
    models = 1 + run.critics
    layers = run.layers
    kept = kept_bytes(model, layers, run.pack_tokens)
    return TrainerMemory(
        weights=weight * size,
        gradients=weight * size,
        moments=moments * size,
        others=run.critics * (2 * weight + moments) * size + run.references * weight * size,
        copies=models * _copies(model, run),
        activations=models * kept + run.masks,
        work=max(_head_work(model, run), _layer_work(model, run)),
    )


def _copies(model: Architecture, run: TrainerRun) -> float:
    """Weights in the forward pass's dtype that are there at the peak."""
    if run.has_small_states or not run.layers.is_bfloat16:
        return 0.0
    head = 2.0 * model.embedding_parameters
    return head + 2.0 * model.layer_parameters * (
        1 if run.layers.is_compiled or run.layers.is_recomputed else model.layers
    )


def _head_work(model: Architecture, run: TrainerRun) -> float:
    """The head's chunk, the hidden states that it reads and their gradient, and the gradient of its weight."""
    rows = min(run.rows, max(1, run.head.values // model.vocabulary))
    states = 2.0 * run.layers.residual_bytes * model.hidden * (run.rows + run.pack_tokens)
    chunk = run.head.value_bytes * rows * model.vocabulary
    return chunk + states + run.head.weight_bytes * model.embedding_parameters


def _layer_work(model: Architecture, run: TrainerRun) -> float:
    """One layer on its way back: gradients, and, recomputed, what it keeps itself."""
    one = layer_bytes(model, run.layers) * run.pack_tokens
    return (1.0 + _LAYER_WORK if run.layers.is_recomputed else _LAYER_WORK) * one
