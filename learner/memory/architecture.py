"""The sizes of a decoder that memory and time follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SizedConfig(Protocol):
    """What is read of a model's configuration, as transformers has it; `architecture_of` knows what may be missing."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a decoder with gated feed-forward layers and grouped-query attention.

    source: where they were read. parameters: the output head counts once where it is tied to the embedding. context:
    most tokens of a prompt and its response. has_head_norms: queries and keys are normalised head by head.
    intermediate: of all experts that a token goes through.
    """

    name: str
    source: str
    parameters: int
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    is_tied: bool
    has_head_norms: bool = True

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding alone."""
        return self.vocabulary * self.hidden

    @property
    def layer_parameters(self) -> float:
        """Of one layer."""
        tables = self.embedding_parameters * (1 if self.is_tied else 2)
        return (self.parameters - tables) / self.layers


def architecture_of(
    config: SizedConfig, name: str, source: str, parameters: int, *, is_tied: bool, has_head_norms: bool
) -> Architecture:
    """The sizes that a configuration states, those it leaves out as transformers fills them in."""
    heads = config.num_attention_heads
    experts = int(getattr(config, "num_experts_per_tok", 0) or 0)
    width = getattr(config, "moe_intermediate_size", None) if experts else None
    return Architecture(
        name=name,
        source=source,
        parameters=parameters,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=experts * int(width or config.intermediate_size) if experts else config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        context=config.max_position_embeddings,
        is_tied=is_tied,
        has_head_norms=has_head_norms,
    )
