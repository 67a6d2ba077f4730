"""Responses that a server aborted, as before an update in mode `abort`, and how they go on from their partial tokens.

    continuation   what to send next: the prompt with the partial tokens behind it, and room for the rest
    join           the partial response and what continued it, as one
    settle         whether a response is complete after all, seen by its tokens

Pure functions. However a response is cut into pieces, it ends as an uninterrupted one would: after the token that
completes a stop text, with an end token, or at its most tokens. A server sees only its own piece, so a stop text across
a seam is looked for here, and so is the last token before an abort, which SGLang adds without looking at it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from lamer.actors.policy import Request
from lamer.common.records import Completion, FinishReason, TokenIds, VersionSpan

_MORE_TOKENS = 8
"""Tokens without a byte of text that may lie within a stop text, such as halves of a letter."""


@dataclass(frozen=True, slots=True)
class Endings:
    """How responses of a model end. decode: ids to text, special tokens among them. end_ids: end-of-text tokens."""

    decode: Callable[[TokenIds], str]
    end_ids: frozenset[int]


LENGTH_ONLY = Endings(lambda _: "", frozenset())
"""Of requests without stop texts to a model without an end token."""


def continuation(request: Request, partial: Completion, seed: int) -> Request:
    """The request for what is missing from an aborted response."""
    prompt = np.concatenate([request.prompt_ids, partial.ids]).astype(np.int32)
    return replace(request, prompt_ids=prompt, max_tokens=request.max_tokens - len(partial.ids), seed=seed)


def join(partial: Completion, rest: Completion) -> Completion:
    """An aborted response and what continued it, as one answer to the first request.

    cached_tokens: of the first, since the prompt of the second is longer.
    """
    return Completion(
        prompt_ids=partial.prompt_ids,
        ids=np.concatenate([partial.ids, rest.ids]),
        behaviour_logprobs=np.concatenate([partial.behaviour_logprobs, rest.behaviour_logprobs]),
        versions=_join_spans(partial.versions, rest.versions),
        finish_reason=rest.finish_reason,
        temperature=partial.temperature,
        cached_tokens=partial.cached_tokens,
    )


def settle(response: Completion, request: Request, endings: Endings, seam: int) -> Completion:
    """The response as it ends by its tokens; still ABORT if more of it is to come.

    seam: how many of its tokens came before the last piece, none of which ended it.
    """
    if len(response.ids) > request.max_tokens:  # more than was asked for counts for nothing
        cut = _cut(response, request.max_tokens)
        response = msgspec.structs.replace(cut, finish_reason=FinishReason.LENGTH)
    is_aborted, length = response.finish_reason is FinishReason.ABORT, len(response.ids)
    reach = max((len(text.encode()) for text in request.stop), default=0) + _MORE_TOKENS
    after_seam = range(seam + 1, min(length, seam + reach) + 1) if seam else range(0)
    for end in (*after_seam, *((length,) if is_aborted else ())):
        text = endings.decode(response.ids[max(0, end - reach) : end]) if request.stop else ""
        if any(stop in text for stop in request.stop):
            return _cut(response, end)
    if not is_aborted:
        return response
    if int(response.ids[-1]) in endings.end_ids:
        return _cut(response, length)
    is_full = length >= request.max_tokens
    return msgspec.structs.replace(response, finish_reason=FinishReason.LENGTH) if is_full else response


def _cut(response: Completion, end: int) -> Completion:
    """The first `end` tokens, as a response that stopped there."""
    spans = tuple(VersionSpan(s.version, s.start, min(s.end, end)) for s in response.versions if s.start < end)
    return msgspec.structs.replace(
        response,
        ids=response.ids[:end],
        behaviour_logprobs=response.behaviour_logprobs[:end],
        versions=spans,
        finish_reason=FinishReason.STOP,
    )


def _join_spans(first: Sequence[VersionSpan], second: Sequence[VersionSpan]) -> tuple[VersionSpan, ...]:
    """Spans of two pieces in a row; those that meet with one version are one."""
    offset, meeting = first[-1].end, first[-1]
    rest = [VersionSpan(span.version, span.start + offset, span.end + offset) for span in second]
    if rest[0].version != meeting.version:
        return (*first, *rest)
    return (*first[:-1], VersionSpan(meeting.version, meeting.start, rest[0].end), *rest[1:])
