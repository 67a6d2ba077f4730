"""JSON bodies of SGLang's HTTP contract: requests checked into records, results into responses.

A body that can't be served raises `BadInput`, which the server answers with 400 and `{"error": {"message": ...}}`.
Fields that only steer SGLang's own routing or scheduling (priority, routing_key, session_id ...) are accepted and
have no effect; sampling parameters that this engine does not have are refused unless they are neutral.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass
from itertools import repeat
from typing import TypeVar, cast

import msgspec
import numpy as np

from lamer.common.errors import MALFORMED, BadInput
from lamer.deploy.inference.embedded.bounds import (
    MOST_TEXTS,
    MOST_TOP,
    check_names,
    check_range,
    check_sampling,
    check_sequences,
    check_texts,
    usable_temperature,
)
from lamer.deploy.inference.embedded.engine import Engine, PauseMode
from lamer.deploy.inference.embedded.sequence import (
    Finish,
    Generated,
    IdArray,
    LogprobParams,
    SamplingParams,
    Sequence,
    VersionRange,
    version_ranges,
)

Body = TypeVar("Body")


class SamplingBody(msgspec.Struct, forbid_unknown_fields=True):
    """`sampling_params` of /generate, with SGLang's names and defaults."""

    max_new_tokens: int | None = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    n: int = 1
    sampling_seed: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0


class GenerateBody(msgspec.Struct):
    """The body of /generate; one prompt, or a batch of them, as ids or as text."""

    rid: str | list[str] | None = None
    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    sampling_params: SamplingBody | list[SamplingBody] | None = None
    return_logprob: bool = False
    logprob_start_len: int | None = -1
    top_logprobs_num: int | None = 0
    return_text_in_logprobs: bool = False
    stream: bool = False
    extra_key: str | None = None
    cache_salt: str | None = None


class PauseBody(msgspec.Struct):
    """The body of /pause_generation."""

    mode: PauseMode = PauseMode.ABORT


class AbortBody(msgspec.Struct):
    """The body of /abort_request."""

    rid: str = ""
    abort_all: bool = False


class UpdateWeightsBody(msgspec.Struct):
    """The body of /update_weights_from_disk. Known prefixes are always forgotten, whatever flush_cache says."""

    model_path: str
    weight_version: str | None = None
    flush_cache: bool = True
    abort_all_requests: bool = False
    keep_pause: bool = False


class WeightVersionBody(msgspec.Struct):
    """The body of /update_weight_version."""

    new_version: str
    abort_all_requests: bool = True


class MetaInfo(msgspec.Struct, omit_defaults=True):
    """`meta_info` of one response. Log-probabilities are (logprob, id, text or null)."""

    id: str
    finish_reason: Finish | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    weight_version: str
    weight_versions: tuple[VersionRange, ...]
    num_retractions: int
    e2e_latency: float
    input_token_logprobs: list[tuple[float | None, int, str | None]] | msgspec.UnsetType = msgspec.UNSET
    output_token_logprobs: list[tuple[float, int, str | None]] | msgspec.UnsetType = msgspec.UNSET
    output_top_logprobs: list[list[tuple[float, int, str | None]]] | msgspec.UnsetType = msgspec.UNSET


class GenerateReply(msgspec.Struct):
    """One response of /generate."""

    text: str
    output_ids: list[int]
    meta_info: MetaInfo


@dataclass(frozen=True)
class Generation:
    """A checked /generate: its sequences, whether the reply is a list, and whether it is streamed."""

    sequences: tuple[Sequence, ...]
    is_list: bool
    is_stream: bool


def decode_body(raw: bytes, kind: type[Body]) -> Body:
    """`raw` JSON as `kind`; an empty body is {}. Raises BadInput with the field that is wrong."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except MALFORMED as error:
        raise BadInput(str(error)) from error


async def _prompts(body: GenerateBody, engine: Engine) -> tuple[list[IdArray], bool]:
    """The prompts of a body as int32 arrays, and whether it was a batch."""
    if (body.text is None) == (body.input_ids is None):
        raise BadInput("Either text or input_ids should be provided, and not both.")
    if body.text is not None:
        texts = body.text if isinstance(body.text, list) else [body.text]
        check_sequences(len(texts))
        check_texts(texts, engine.model.context)
        prompts = []
        for text in texts:
            prompts.append(_checked_ids(engine.text.encode(text).tolist(), engine))
            await asyncio.sleep(0)  # others are served between two texts
        return prompts, isinstance(body.text, list)
    rows = body.input_ids or []
    kinds = set(map(type, rows))
    if len(kinds) > 1:
        raise BadInput("input_ids mixes token ids with lists of token ids")
    if kinds == {list}:
        check_sequences(len(rows))
        return [_checked_ids(ids, engine) for ids in cast(list[list[int]], rows)], True
    return [_checked_ids(cast(list[int], rows), engine)], False


def _checked_ids(ids: list[int], engine: Engine) -> IdArray:
    if not ids:
        raise BadInput("the prompt is empty: at least one input token is needed")
    low, high = min(ids), max(ids)
    if low < 0 or high >= engine.model.vocabulary:
        wrong = low if low < 0 else high
        raise BadInput(f"token id {wrong} is outside of the vocabulary (0 .. {engine.model.vocabulary - 1})")
    return np.array(ids, np.int32)


def _check_sampling(body: SamplingBody, vocabulary: int) -> None:
    """Raises BadInput with the first parameter that is out of its range or not supported."""
    check_sampling(body, vocabulary)
    neutral = SamplingBody()
    for name in ("min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"):
        if getattr(body, name) != getattr(neutral, name):
            raise BadInput(f"{name} is not supported by the embedded engine, leave it at {getattr(neutral, name)}.")


def _sampling_params(body: SamplingBody, sample: int, prompt_length: int, engine: Engine) -> SamplingParams:
    """The parameters of sample number `sample` of a prompt; with a seed, each sample has its own noise."""
    longest = engine.scheduler.longest - prompt_length
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if stop:
        engine.text.watch(stop)
    seed = secrets.randbits(64) if body.sampling_seed is None else (body.sampling_seed + sample * 0x9E3779B9) % 2**64
    stop_ids = () if body.ignore_eos else (*engine.text.end_ids, *(body.stop_token_ids or ()))
    return SamplingParams(
        temperature=usable_temperature(body.temperature),
        top_p=body.top_p,
        top_k=min(body.top_k, engine.model.vocabulary),
        max_new_tokens=max(longest, 0) if body.max_new_tokens is None else body.max_new_tokens,
        min_new_tokens=body.min_new_tokens,
        stop=stop,
        stop_ids=stop_ids,
        seed=seed,
        skip_special_tokens=body.skip_special_tokens,
        keep_stop=body.no_stop_trim,
    )


def _names(body: GenerateBody, count: int) -> tuple[list[str], str]:
    """One id for each of `count` sequences, and the id that names all of them."""
    if isinstance(body.rid, list):
        if len(body.rid) != count:
            raise BadInput(f"{len(body.rid)} rids for {count} sequences")
        return body.rid, uuid.uuid4().hex
    name = body.rid or uuid.uuid4().hex
    return ([name] if count == 1 else [f"{name}_{index}" for index in range(count)]), name


def _samplings(body: GenerateBody, prompts: int) -> list[SamplingBody]:
    given = body.sampling_params
    if isinstance(given, list):
        if len(given) != prompts:
            raise BadInput(f"{len(given)} sampling_params for {prompts} prompts")
        return given
    return [given or SamplingBody()] * prompts


async def parse_generate(raw: bytes, engine: Engine) -> Generation:
    """Checks a /generate body against the engine's limits. Raises BadInput."""
    body = decode_body(raw, GenerateBody)
    check_names(body.extra_key, body.cache_salt, *(body.rid if isinstance(body.rid, list) else [body.rid]))
    prompts, is_batch = await _prompts(body, engine)
    samplings = _samplings(body, len(prompts))
    logprobs = _logprob_params(body)
    check_sequences(sum(max(sampling.n, 0) for sampling in samplings))
    pairs: list[tuple[IdArray, SamplingParams]] = []
    for prompt, sampling in zip(prompts, samplings, strict=True):
        _check_sampling(sampling, engine.model.vocabulary)
        if logprobs.input_start >= len(prompt):
            raise BadInput(f"logprob_start_len {logprobs.input_start} is not inside the prompt of {len(prompt)} tokens")
        for sample in range(sampling.n):
            params = _sampling_params(sampling, sample, len(prompt), engine)
            engine.check_prompt(len(prompt), params.max_new_tokens)
            if logprobs.with_text:
                texts = logprobs.top * params.max_new_tokens
                check_range("top_logprobs_num times max_new_tokens, with their texts,", texts, 0, MOST_TEXTS)
            pairs.append((prompt, params))
    names, group = _names(body, len(pairs))
    loop = asyncio.get_running_loop()
    salt = f"{body.extra_key or ''}\0{body.cache_salt or ''}"
    sequences = tuple(
        Sequence(
            name, group, prompt, params, logprobs, salt, loop.create_future(), asyncio.Event() if body.stream else None
        )
        for name, (prompt, params) in zip(names, pairs, strict=True)
    )
    return Generation(sequences, is_batch or len(sequences) > 1, body.stream)


def _logprob_params(body: GenerateBody) -> LogprobParams:
    start, top = body.logprob_start_len, body.top_logprobs_num or 0
    check_range("top_logprobs_num", top, 0, MOST_TOP)
    return LogprobParams(
        wanted=body.return_logprob,
        input_start=start if body.return_logprob and start is not None else -1,
        top=top if body.return_logprob else 0,
        with_text=body.return_text_in_logprobs,
    )


def make_reply(sequence: Sequence, engine: Engine, generated: Generated) -> GenerateReply:
    """The response for what `sequence` has generated so far, or for all of it when it has ended."""
    versions = version_ranges(generated.versions, engine.scheduler.labels)
    ids = generated.ids.tolist()
    meta = MetaInfo(
        id=sequence.rid,
        finish_reason=sequence.finish,
        prompt_tokens=len(sequence.prompt),
        completion_tokens=len(ids),
        cached_tokens=max(sequence.cached_tokens, 0),
        weight_version=versions[-1].version if versions else engine.weight_version,
        weight_versions=versions,
        num_retractions=sequence.retractions,
        e2e_latency=sequence.ended - sequence.arrived if sequence.finish is not None else 0.0,
    )
    if sequence.logprobs.wanted:
        _add_logprobs(meta, sequence, engine, generated)
    return GenerateReply(engine.text.response_text(generated.ids, sequence.params, sequence.finish), ids, meta)


def _add_logprobs(meta: MetaInfo, sequence: Sequence, engine: Engine, generated: Generated) -> None:
    """Fills in the log-probabilities that were asked for."""
    asked = sequence.logprobs

    def text(token: int) -> str | None:
        return engine.text.decode(np.array([token], np.int32), False) if asked.with_text else None

    ids = generated.ids.tolist()
    texts = map(text, ids) if asked.with_text else repeat(None)
    meta.output_token_logprobs = list(zip(generated.logprobs.tolist(), ids, texts, strict=False))
    if asked.top:
        meta.output_top_logprobs = [
            [(value, token, text(token)) for value, token in row] for row in sequence.top_logprobs
        ]
    if asked.input_start >= 0:
        known = {asked.input_start: None, **sequence.input_logprobs}
        part = sequence.prompt[asked.input_start :].tolist()
        meta.input_token_logprobs = [
            (known.get(place), token, text(token)) for place, token in enumerate(part, asked.input_start)
        ]
