"""What a trial asks of a policy: one request in, one completion out, or one of three errors.

`actors.inference` implements the protocol over inference servers; a benchmark or a test does so in a few lines.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Protocol

from lamer.common.records import Completion, TokenIds


class InferenceError(RuntimeError):
    """No usable response after every retry: the trial ends as `inference_error` and its slot is leased again."""


class InferenceRefused(InferenceError):
    """A server understood the request and refused it, so sending it again is useless; the message quotes the server."""


class ContextOverflow(InferenceError):
    """The prompt together with room for the response is longer than the server's context."""


class RequestKind(enum.StrEnum):
    """What a response is for."""

    PLAY = "play"
    REFLECT = "reflect"


@dataclass(frozen=True, slots=True)
class Request:
    """One response to be generated.

    prompt_ids: int32 [P]. max_tokens: bound of the response. stop: texts after which the response ends, kept in it.
    top_p 1 and top_k 0: no restriction. seed: 63-bit sampling seed, which an engine without seeds ignores.
    """

    prompt_ids: TokenIds
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    kind: RequestKind


class Policy(Protocol):
    """Whatever generates responses."""

    async def complete(self, request: Request) -> Completion:
        """The response to a request, with the behaviour logprobs and the policy version of each of its tokens.

        Raises:
            ContextOverflow: the prompt does not fit. InferenceError: no usable response.
        """
        ...


def sampling_seed(trial_id: str, episode: int, turn: int) -> int:
    """A 63-bit seed that is the same in every process and on every run.

    Request `turn` of an episode: its turns count from 0, and the reflection after it comes next in the count.
    """
    return _hash63(f"{trial_id}|{episode}|{turn}")


def retry_seed(seed: int, retry: int) -> int:
    """The seed for sending a request again; retry 0 is its first sending, with `seed` itself."""
    return seed if retry == 0 else _hash63(f"{seed}|{retry}")


def _hash63(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1
