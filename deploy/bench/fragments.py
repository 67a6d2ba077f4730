"""Response texts of the simulated server, cut out of JSON that is written once.

A response of several hundred tokens is two slices of prepared bytes, ids and `[logprob, id, null]` triples, so that
answering costs the same whatever its length. Which slice is a pure function of the request's key.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import NamedTuple

RING_TOKENS = 16_384


class Fragment(NamedTuple):
    """The JSON array elements of one response, without the brackets around them."""

    ids: bytes
    logprobs: bytes


class ResponseFragments:
    """`RING_TOKENS` random token ids in low..vocabulary-1 with log-probabilities, as JSON that can be cut anywhere."""

    def __init__(self, vocabulary: int, seed: int, low: int = 2) -> None:
        rng = random.Random(seed)
        tokens = [rng.randrange(low, vocabulary) for _ in range(RING_TOKENS)]
        ids = [b"%d," % token for token in tokens]
        logprobs = [b"[%.3f,%d,null]," % (-rng.expovariate(1.0) - 0.001, token) for token in tokens]
        self._ids = b"".join(ids)
        self._logprobs = b"".join(logprobs)
        self._id_ends = list(itertools.accumulate(map(len, ids), initial=0))
        self._logprob_ends = list(itertools.accumulate(map(len, logprobs), initial=0))

    def cut(self, key: int, length: int) -> Fragment:
        """The first `length` tokens of the response to the request with this key; 0 tokens are empty arrays."""
        if length <= 0:
            return Fragment(b"", b"")
        digest = hashlib.blake2b(f"text/{key}".encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "little") % (RING_TOKENS // 2)
        end = start + length
        return Fragment(
            self._ids[self._id_ends[start] : self._id_ends[end] - 1],
            self._logprobs[self._logprob_ends[start] : self._logprob_ends[end] - 1],
        )
