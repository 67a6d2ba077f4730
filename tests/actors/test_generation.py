"""The JSON of /generate, both ways, without a network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lamer.actors.generation import (
    BadAnswer,
    check_ids,
    check_response,
    decode_answer,
    encode_request,
    error_message,
    refusal,
)
from lamer.actors.policy import ContextOverflow, InferenceRefused, Request, RequestKind
from lamer.actors.resuming import LENGTH_ONLY, settle
from lamer.common.records import FinishReason, VersionSpan
from lamer.common.versions import UnknownVersion, to_policy_version, to_weight_version


def request(ids: tuple[int, ...] = (3, 4), top_k: int = 0) -> Request:
    prompt = np.array(ids, dtype=np.int32)
    return Request(prompt, 16, ("</action>",), 0.8, 0.9, top_k, 7, RequestKind.PLAY)


def answer(ids: tuple[int, ...] = (5, 6, 7), **meta: object) -> bytes:
    fields: dict[str, object] = {
        "id": "x",
        "finish_reason": {"type": "stop", "matched": "</action>"},
        "prompt_tokens": 2,
        "completion_tokens": len(ids),
        "cached_tokens": 1,
        "weight_version": "4",
        "weight_versions": [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": len(ids)}],
        "output_token_logprobs": [[-0.25, token, None] for token in ids],
        "e2e_latency": 0.1,
    }
    return json.dumps({"text": "t", "output_ids": ids, "meta_info": {**fields, **meta}}).encode()


def test_a_request_says_what_sglang_wants_to_hear() -> None:
    assert json.loads(encode_request(request(), 3)) == {
        "input_ids": [3, 4],
        "sampling_params": {
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": -1,
            "max_new_tokens": 16,
            "stop": ["</action>"],
            "sampling_seed": 7,
            "skip_special_tokens": False,
            "no_stop_trim": True,
        },
        "extra_key": "3",
        "return_logprob": True,
    }
    assert json.loads(encode_request(request(top_k=20), 3))["sampling_params"]["top_k"] == 20


def test_an_answer_becomes_a_completion_with_version_spans() -> None:
    completion = decode_answer(answer(), request())
    assert completion.ids.tolist() == [5, 6, 7]
    assert completion.behaviour_logprobs.tolist() == [-0.25] * 3
    assert completion.versions == (VersionSpan(3, 0, 1), VersionSpan(4, 1, 3))
    assert completion.finish_reason is FinishReason.STOP
    assert (completion.cached_tokens, completion.temperature) == (1, 0.8)


def test_an_aborted_answer_holds_what_there_was() -> None:
    completion = decode_answer(answer(finish_reason={"type": "abort", "message": "Aborted"}), request())
    assert completion.ids.tolist() == [5, 6, 7]
    assert completion.finish_reason is FinishReason.ABORT


@pytest.mark.parametrize("spans", [None, []])
def test_without_spans_the_weight_version_holds_for_the_whole_response(spans: object) -> None:
    assert decode_answer(answer(weight_versions=spans), request()).versions == (VersionSpan(4, 0, 3),)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (answer((), finish_reason={"type": "abort", "message": "Aborted by us"}), "Aborted by us"),
        (answer(()), "no tokens"),
        (b"{}", "shape"),
        (b"<html>", "shape"),
        (b'{"output_ids": [5], "meta_info": {"finish_reason": {"type": "stop", "message": "\xff"}}}', "shape"),
        (answer(output_token_logprobs=[[-0.1, 5, None]]), "logprobs"),
        (answer(output_token_logprobs=[[-0.1, 9, None], [-0.1, 6, None], [-0.1, 7, None]]), "logprobs"),
        (answer(output_token_logprobs=[[None, 5, None], [-0.1, 6, None], [-0.1, 7, None]]), "shape"),
        (answer(weight_versions=[{"version": "3", "start": 0, "end": 2}]), "spans"),
        (answer(finish_reason={"type": "strange"}), "contradicts"),
    ],
)
def test_an_unusable_answer_is_said_to_be_one(data: bytes, problem: str) -> None:
    with pytest.raises(BadAnswer, match=problem):
        decode_answer(data, request())


def test_weights_with_a_label_of_another_kind_are_refused() -> None:
    with pytest.raises(InferenceRefused, match="'default'"):
        decode_answer(answer(weight_versions=None, weight_version="default"), request())


@pytest.mark.parametrize("ids", [(), (-1, 3), (3, 100)])
def test_ids_that_would_kill_the_server_are_not_sent(ids: tuple[int, ...]) -> None:
    with pytest.raises(InferenceRefused):
        check_ids(request(ids), 100)


def test_ids_up_to_the_end_of_the_vocabulary_pass() -> None:
    check_ids(request((0, 99)), 100)


@pytest.mark.parametrize(
    "message",
    [
        "The input (9 tokens) is longer than the model's context length (8 tokens).",
        "Requested token count exceeds the model's maximum context length of 8 tokens.",
        "Input length (9 tokens) exceeds the maximum allowed length (8 tokens).",
        "9 input tokens and max_new_tokens 4 exceed the server's max_total_tokens (12).",
    ],
)
def test_a_prompt_too_long_for_the_server_is_an_overflow(message: str) -> None:
    error = refusal(400, json.dumps({"error": {"message": message}}).encode())
    assert isinstance(error, ContextOverflow)


def test_another_refusal_quotes_the_server() -> None:
    error = refusal(400, b'{"error":{"message":"temperature must be non-negative"}}')
    assert not isinstance(error, ContextOverflow)
    assert "temperature" in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b"plain text", "plain text"),
        (b'{"error":"\xff"}', '{"error":"\ufffd"}'),
        (b"", ""),
    ],
)
def test_error_bodies_of_any_shape_are_read(data: bytes, message: str) -> None:
    assert error_message(data) == message


def test_weight_versions_and_policy_versions_map_both_ways() -> None:
    assert to_policy_version(to_weight_version(12)) == 12
    for label in ("default", "", "-1", "1.5", "²"):
        with pytest.raises(UnknownVersion):
            to_policy_version(label)


@pytest.mark.parametrize(("logprob", "is_taken"), [(-1000.0, True), (1e-4, True), (-1001.0, False), (2e-4, False)])
def test_a_logprob_that_the_learner_would_refuse_is_a_bad_answer(logprob: float, is_taken: bool) -> None:
    data = answer(output_token_logprobs=[[-0.25, 5, None], [logprob, 6, None], [-0.25, 7, None]])
    if is_taken:
        decode_answer(data, request())
    else:
        with pytest.raises(BadAnswer, match=f"a logprob is {logprob}"):
            decode_answer(data, request())


@pytest.mark.parametrize(("vocabulary", "is_taken"), [(8, True), (7, False)])
def test_an_id_that_the_model_does_not_have_is_a_bad_answer(vocabulary: int, is_taken: bool) -> None:
    completion = decode_answer(answer(), request())
    if is_taken:
        check_response(completion, vocabulary)
    else:
        with pytest.raises(BadAnswer, match="token id 7 came back, the vocabulary ends at 7"):
            check_response(completion, vocabulary)


@pytest.mark.parametrize("data", [b"{" * 100_000, b'{"output_ids":' + b"[" * 100_000])
def test_an_answer_nested_beyond_the_stack_is_a_bad_answer(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        decode_answer(data, request())
    assert error_message(data)


def test_more_tokens_than_were_asked_for_are_cut() -> None:
    completion = decode_answer(answer(tuple(range(20))), request())
    settled = settle(completion, request(), LENGTH_ONLY, 0)
    assert settled.ids.tolist() == list(range(16))
    assert (settled.versions[-1].end, settled.finish_reason) == (16, FinishReason.LENGTH)
