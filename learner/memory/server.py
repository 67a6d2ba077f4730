"""GPU memory in bytes of an inference server. Pure functions of an architecture."""

from __future__ import annotations

from dataclasses import dataclass

from lamer.learner.memory.architecture import Architecture

SERVED_SHARE = 0.85
"""Of a GPU's memory that an inference server of its own gives to weights and key-value cache."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Bytes on each GPU of one replica, and what its key-value cache holds.

    cache_token: of one token. fitting_tokens: tokens for which a GPU has room, 0 where not even the weights fit.
    """

    weights: float
    cache_token: float
    fitting_tokens: int

    def cache(self, sequences: int, tokens: float) -> float:
        """Bytes of the cache of so many sequences of so many tokens each."""
        return sequences * tokens * self.cache_token


def server_memory(model: Architecture, tensor_parallel: int, card_bytes: float) -> ServerMemory:
    """One replica over `tensor_parallel` GPUs: bfloat16 weights and key-value cache, divided between them.

    Qwen3-4B: 8.04 GB of weights, 2 x 36 layers x 1024 x 2 = 147,456 bytes of cache a token.
    """
    weights = 2.0 * model.parameters / tensor_parallel
    cache_token = 2.0 * 2.0 * model.layers * model.key_size / tensor_parallel
    room = max(0.0, SERVED_SHARE * card_bytes - weights)
    return ServerMemory(weights, cache_token, int(room / cache_token))


def beside_trainer(model: Architecture, cache_tokens: int) -> float:
    """What a server on the trainer's card takes at least: its weights and a cache of `cache_tokens` tokens.

    Qwen3-4B with 65,536: 8.04 + 9.66 GB.
    """
    server = server_memory(model, 1, 0.0)
    return server.weights + server.cache(1, cache_tokens)
