"""How much one request may ask of the engine, seen before any work is done for it: all of it is refused with 400.

What waits in all is bounded by `deploy.inference.embedded.engine`, the size of a body by
`deploy.inference.embedded.server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lamer.common.errors import BadInput

MOST_SAMPLES = 256
MOST_SEQUENCES = 4096
"""Of one request: its prompts times their samples."""
MOST_TOP = 64
MOST_STOPS = 64
LONGEST_STOP = 1024
MOST_STOP_IDS = 1024
LONGEST_NAME = 1024
BYTES_A_TOKEN = 32
"""A text with more bytes for each token of the context can't fit; ordinary text has about four."""
MOST_TEXTS = 32768
"""Alternatives of which the text is asked for, in one response."""
_LEAST_TEMPERATURE = 1e-6


class Sampling(Protocol):
    """The parameters that are checked here, with SGLang's names."""

    max_new_tokens: int | None
    min_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    n: int


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises BadInput unless `value` is a number within [low, high]."""
    if not low <= value <= high:
        shown = "a larger number" if isinstance(value, int) and abs(value) > 2**128 else value
        raise BadInput(f"{name} must be in [{low:g}, {high:g}], got {shown}.")


def check_texts(texts: Sequence[str], context: int) -> None:
    """Raises BadInput when a text can't fit into `context` tokens, whatever its tokens are."""
    longest = max((len(text) for text in texts), default=0)
    if longest > BYTES_A_TOKEN * context:
        raise BadInput(
            f"The input ({longest} characters) is longer than the model's context length ({context} tokens) can hold."
        )


def check_names(*names: str | None) -> None:
    """Raises BadInput when a name that the engine keeps is too long."""
    longest = max((len(name) for name in names if name is not None), default=0)
    if longest > LONGEST_NAME:
        raise BadInput(f"rid, extra_key and cache_salt have at most {LONGEST_NAME} characters, got {longest}")


def check_sequences(count: int) -> None:
    """Raises BadInput when a request has too many sequences."""
    if count > MOST_SEQUENCES:
        raise BadInput(f"one request has at most {MOST_SEQUENCES} sequences (prompts times n), got {count}")


def check_sampling(body: Sampling, vocabulary: int) -> None:
    """Raises BadInput with the first parameter that is out of its range."""
    check_range("temperature", body.temperature, 0.0, 1e6)
    if not 0.0 < body.top_p <= 1.0:
        raise BadInput(f"top_p must be in (0, 1], got {body.top_p}.")
    if body.top_k != -1:
        check_range("top_k, where it is not -1 (disable),", body.top_k, 1, 2**31 - 1)
    check_range("n", body.n, 1, MOST_SAMPLES)
    if body.max_new_tokens is not None:
        check_range("max_new_tokens", body.max_new_tokens, 0, 2**31)
        check_range("min_new_tokens", body.min_new_tokens, 0, body.max_new_tokens)
    check_range("min_new_tokens", body.min_new_tokens, 0, 2**31)
    check_range("the number of stop_token_ids", len(body.stop_token_ids or ()), 0, MOST_STOP_IDS)
    for token in body.stop_token_ids or ():
        check_range("stop_token_ids", token, 0, vocabulary - 1)
    _check_stops([body.stop] if isinstance(body.stop, str) else body.stop or [])


def _check_stops(stops: Sequence[str]) -> None:
    check_range("the number of stop strings", len(stops), 0, MOST_STOPS)
    for stop in stops:
        if stop == "":
            raise BadInput("stop must not hold an empty string.")
        check_range("the length of a stop string", len(stop), 1, LONGEST_STOP)


def usable_temperature(temperature: float) -> float:
    """0 (greedy) for a temperature by which nothing can be divided."""
    return temperature if temperature >= _LEAST_TEMPERATURE else 0.0
