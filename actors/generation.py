"""The body of SGLang's `/generate`: a `Request` as JSON, and its JSON answer as a `Completion`.

Pure functions, no network. Decoding is typed (msgspec), so an answer of another shape is a `BadAnswer`.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from lamer.actors.policy import ContextOverflow, InferenceError, InferenceRefused, Request
from lamer.common.errors import MALFORMED
from lamer.common.records import MAX_LOGPROB, MIN_LOGPROB, Completion, FinishReason, InvalidRecord, VersionSpan
from lamer.common.versions import UnknownVersion, to_policy_version, to_weight_version

_OVERFLOW = re.compile(r"context length|max_total_tokens|maximum (allowed|input) length|too long", re.IGNORECASE)
_QUOTED = 300


class BadAnswer(InferenceError):
    """An answer with nothing usable in it (no tokens, malformed): the request is sent again."""


class SamplingParams(msgspec.Struct):
    """SGLang's sampling parameters. Its text is not used, and its ids keep special tokens and stop texts."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop: tuple[str, ...]
    sampling_seed: int
    skip_special_tokens: bool = False
    no_stop_trim: bool = True


class GenerateBody(msgspec.Struct):
    """What is sent.

    extra_key: prefixes are shared only between requests with the same one. It is the policy version, since an update in
    place leaves in SGLang's cache what older weights computed.
    """

    input_ids: list[int]
    sampling_params: SamplingParams
    extra_key: str
    return_logprob: bool = True


class Finish(msgspec.Struct):
    """Why generation ended, in SGLang's words."""

    type: str
    message: str = ""


class WeightSpan(msgspec.Struct):
    """Tokens start <= i < end were generated under the label `version`."""

    version: str
    start: int
    end: int


class MetaInfo(msgspec.Struct):
    """What the answer says about itself. output_token_logprobs: (logprob, id, text or null) of each token."""

    finish_reason: Finish
    cached_tokens: int = 0
    weight_version: str = ""
    weight_versions: tuple[WeightSpan, ...] | None = None
    output_token_logprobs: list[tuple[float, int, str | None]] = []


class GenerateAnswer(msgspec.Struct):
    """What comes back."""

    output_ids: list[int]
    meta_info: MetaInfo


class ErrorDetail(msgspec.Struct):
    """The inside of an error."""

    message: str = ""


class ErrorAnswer(msgspec.Struct):
    """What comes back with a status other than 200."""

    error: ErrorDetail | str = ""


_ENCODER = msgspec.json.Encoder()
_ANSWERS = msgspec.json.Decoder(GenerateAnswer)
_ERRORS = msgspec.json.Decoder(ErrorAnswer)


def check_ids(request: Request, vocab_size: int) -> None:
    """Refuse a prompt that would kill the server: SGLang's scheduler dies of an id outside its vocabulary.

    Raises:
        InferenceRefused: an id is not in 0 <= id < vocab_size, or there is none.
    """
    ids = request.prompt_ids
    if len(ids) == 0:
        raise InferenceRefused("the prompt is empty")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise InferenceRefused(
            f"the prompt holds token id {low if low < 0 else high}, the vocabulary ends at {vocab_size}"
        )


def encode_request(request: Request, policy_version: int) -> bytes:
    """The JSON body that asks for `request`, of a server that holds `policy_version`."""
    params = SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k or -1,
        max_new_tokens=request.max_tokens,
        stop=request.stop,
        sampling_seed=request.seed,
    )
    return _ENCODER.encode(GenerateBody(request.prompt_ids.tolist(), params, to_weight_version(policy_version)))


def decode_answer(data: bytes, request: Request) -> Completion:
    """The completion in the body of an answer with status 200; one that was aborted holds what there was by then.

    Raises:
        BadAnswer: without tokens, or not what SGLang's contract says.
        InferenceRefused: the weights have a label that no host of ours gave them.
    """
    try:
        answer = _ANSWERS.decode(data)
    except MALFORMED as error:
        raise BadAnswer(f"the answer is not of /generate's shape: {error}") from error
    meta, ids = answer.meta_info, answer.output_ids
    if not ids:
        finish = meta.finish_reason
        raise BadAnswer(f"no tokens came back, finish reason {finish.type} {finish.message}".rstrip())
    logprobs = [triple[0] for triple in meta.output_token_logprobs]
    if [triple[1] for triple in meta.output_token_logprobs] != ids:
        raise BadAnswer(f"{len(ids)} ids came back with logprobs of {len(meta.output_token_logprobs)} other ones")
    if odd := [value for value in logprobs if not MIN_LOGPROB <= value <= MAX_LOGPROB]:
        raise BadAnswer(f"a logprob is {odd[0]}, which is not within {MIN_LOGPROB} .. {MAX_LOGPROB}")
    try:
        return Completion(
            prompt_ids=request.prompt_ids,
            ids=np.array(ids, dtype=np.int32),
            behaviour_logprobs=np.array(logprobs, dtype=np.float32),
            versions=_spans(meta, len(ids)),
            finish_reason=FinishReason(meta.finish_reason.type),
            temperature=request.temperature,
            cached_tokens=min(max(meta.cached_tokens, 0), len(request.prompt_ids)),
        )
    except UnknownVersion as error:
        raise InferenceRefused(str(error)) from error
    except (InvalidRecord, ValueError) as error:
        raise BadAnswer(f"the answer contradicts itself: {error}") from error


def check_response(completion: Completion, vocab_size: int) -> None:
    """Refuse ids that the model does not have.

    Raises:
        BadAnswer: an id is not in 0 <= id < vocab_size.
    """
    low, high = int(completion.ids.min()), int(completion.ids.max())
    if low < 0 or high >= vocab_size:
        raise BadAnswer(f"token id {low if low < 0 else high} came back, the vocabulary ends at {vocab_size}")


def refusal(status: int, data: bytes) -> InferenceRefused | ContextOverflow:
    """The error that an answer with status 4xx stands for."""
    message = error_message(data)
    if status in (400, 413) and _OVERFLOW.search(message):
        return ContextOverflow(message)
    return InferenceRefused(f"status {status}: {message}")


def error_message(data: bytes) -> str:
    """What an error's body says, in at most a few lines."""
    try:
        error = _ERRORS.decode(data).error
    except MALFORMED:
        return data[:_QUOTED].decode(errors="replace")
    return (error.message if isinstance(error, ErrorDetail) else error)[:_QUOTED]


def _spans(meta: MetaInfo, length: int) -> tuple[VersionSpan, ...]:
    """Version spans of the response; a server without spans has one version for all of it."""
    if not meta.weight_versions:
        return (VersionSpan(to_policy_version(meta.weight_version), 0, length),)
    return tuple(VersionSpan(to_policy_version(span.version), span.start, span.end) for span in meta.weight_versions)
