"""POST /generate, as a client sees it."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import numpy as np
import pytest

from tests.contract.served import CONTEXT, END_ID, VOCABULARY, Served, headers, reference_logprobs

PROMPT = [7, 60, 61, 99, 100, 5, 80, 81, 82, 83, 84, 85, 90, 91, 92, 93, 94, 95, 140, 200, 201]


def logprobs(reply: dict) -> np.ndarray:
    return np.array([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]])


def expected(folder: Path, reply: dict, prompt: list[int], temperature: float) -> np.ndarray:
    ids = reply["output_ids"]
    full = reference_logprobs(folder, prompt + ids, temperature)
    return full[np.arange(len(prompt) - 1, len(prompt) + len(ids) - 1), ids]


def test_greedy_tokens_and_logprobs_are_those_of_a_transformers_forward(server: Served) -> None:
    reply = server.generate(PROMPT, 24)
    full = reference_logprobs(server.folders["base"], PROMPT + reply["output_ids"], 1.0)
    assert reply["output_ids"] == full[len(PROMPT) - 1 : -1].argmax(-1).tolist()
    assert np.abs(logprobs(reply) - expected(server.folders["base"], reply, PROMPT, 1.0)).max() < 1e-4
    assert [entry[1:] for entry in reply["meta_info"]["output_token_logprobs"]] == [
        [token, None] for token in reply["output_ids"]
    ]


@pytest.mark.parametrize(("temperature", "cut"), [(0.7, {}), (1.0, {}), (1.5, {"top_p": 0.8, "top_k": 20})])
def test_logprobs_are_those_at_the_sampling_temperature_before_truncation(
    server: Served, temperature: float, cut: dict[str, float]
) -> None:
    reply = server.generate(PROMPT, 24, temperature=temperature, sampling_seed=3, **cut)
    assert np.abs(logprobs(reply) - expected(server.folders["base"], reply, PROMPT, temperature)).max() < 1e-4


def test_top_k_draws_only_from_the_likeliest(server: Served) -> None:
    reply = server.generate(PROMPT, 40, temperature=1.5, top_k=3)
    full = reference_logprobs(server.folders["base"], PROMPT + reply["output_ids"], 1.5)[len(PROMPT) - 1 : -1]
    ranks = [(row > row[token]).sum() for row, token in zip(full, reply["output_ids"], strict=True)]
    assert max(ranks) <= 2
    assert len(set(ranks)) > 1


def test_sampling_follows_the_distribution(server: Served) -> None:
    replies = server.ask(
        input_ids=PROMPT,
        sampling_params={"temperature": 1.0, "max_new_tokens": 1, "ignore_eos": True, "n": 256, "sampling_seed": 1},
    ).body
    likeliest = np.exp(reference_logprobs(server.folders["base"], PROMPT, 1.0)[-1])
    drawn = np.bincount([reply["output_ids"][0] for reply in replies], minlength=VOCABULARY) / len(replies)
    token = int(likeliest.argmax())
    spread = np.sqrt(likeliest[token] * (1 - likeliest[token]) / len(replies))
    assert abs(drawn[token] - likeliest[token]) < 4 * spread


def test_a_prompt_seen_before_is_taken_from_the_cache_with_equal_logprobs(server: Served) -> None:
    prompt = list(np.random.default_rng(0).integers(3, VOCABULARY, 100).tolist())
    first, second = server.generate(prompt), server.generate(prompt)
    assert first["meta_info"]["cached_tokens"] == 0
    assert second["meta_info"]["cached_tokens"] >= 64
    assert second["output_ids"] == first["output_ids"]
    assert np.allclose(logprobs(first), logprobs(second), atol=1e-5)


def test_prompts_that_share_a_prefix_each_get_their_own_logprobs(server: Served) -> None:
    base = np.random.default_rng(1).integers(3, VOCABULARY, 300).tolist()
    prompts = [[*base[:length], 9, 8, length % 200 + 3] for length in (40, 41, 150, 290, 299)]
    futures = [server.start(prompt, 12, temperature=1.0) for prompt in prompts]
    for prompt, future in zip(prompts, futures, strict=True):
        reply = future.result()
        assert np.abs(logprobs(reply) - expected(server.folders["base"], reply, prompt, 1.0)).max() < 1e-4


def test_identical_prompts_in_one_batch_give_equal_greedy_answers(server: Served) -> None:
    replies = server.generate([PROMPT] * 6, 10)
    assert len({tuple(reply["output_ids"]) for reply in replies}) == 1
    assert [reply["meta_info"]["completion_tokens"] for reply in replies] == [10] * 6


def test_a_batch_answers_in_order(server: Served) -> None:
    prompts = [PROMPT[: 5 + index] for index in range(6)]
    replies = server.generate(prompts, 5)
    assert [reply["output_ids"] for reply in replies] == [
        server.generate(prompt, 5)["output_ids"] for prompt in prompts
    ]
    assert [reply["meta_info"]["prompt_tokens"] for reply in replies] == [5, 6, 7, 8, 9, 10]


def test_text_is_tokenised_by_the_folder_and_decoded_back(server: Served) -> None:
    answer = server.ask(text="the open door", sampling_params={"temperature": 0, "max_new_tokens": 4})
    assert answer.status == 200
    assert isinstance(answer.body["text"], str)
    assert answer.body["meta_info"]["prompt_tokens"] >= 3


def test_n_samples_differ_and_repeat_with_their_seed(server: Served) -> None:
    first, second = (server.generate(PROMPT, 16, temperature=1.0, n=4, sampling_seed=11) for _ in range(2))
    outputs = [tuple(reply["output_ids"]) for reply in first]
    assert len(set(outputs)) == 4
    if server.capabilities.has_seeds:
        assert outputs == [tuple(reply["output_ids"]) for reply in second]


def test_a_seed_gives_the_same_tokens_whatever_runs_beside_it(server: Served) -> None:
    server.lacks("has_seeds", "this engine has no seeds")
    alone = server.generate(PROMPT, 32, temperature=1.0, sampling_seed=5)["output_ids"]
    others = [server.start([*PROMPT[:9], index], 40, temperature=1.0) for index in range(3, 10)]
    beside = server.start(PROMPT, 32, temperature=1.0, sampling_seed=5)
    assert beside.result()["output_ids"] == alone
    assert server.generate(PROMPT, 32, temperature=1.0, sampling_seed=6)["output_ids"] != alone
    assert all(other.result()["output_ids"] != alone for other in others)


def test_a_stop_id_ends_the_response_and_stays_among_its_ids(server: Served) -> None:
    free = server.generate(PROMPT, 12)["output_ids"]
    stop = free[5]
    reply = server.generate(PROMPT, 12, ignore_eos=False, stop_token_ids=[stop])
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert reply["output_ids"] == free[: free.index(stop) + 1]


def test_a_stop_string_ends_the_response_and_is_cut_from_its_text(server: Served) -> None:
    free = server.generate(PROMPT, 30)
    text = free["text"]
    stop = next(text[i : i + 2] for i in range(3, len(text)) if text[i : i + 2].isascii() and len(text[i : i + 2]) == 2)
    reply = server.generate(PROMPT, 30, stop=["never there", stop])
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert reply["text"] == text[: text.index(stop)]
    count = len(reply["output_ids"])
    assert reply["output_ids"] == free["output_ids"][:count]
    assert count < 30


def test_the_length_limit_is_a_finish_reason_and_ends_are_ignored_on_request(server: Served) -> None:
    reply = server.generate(PROMPT, 7)
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": 7}
    assert reply["meta_info"]["completion_tokens"] == len(reply["output_ids"]) == 7
    ended = server.ask(
        input_ids=PROMPT, sampling_params={"temperature": 1.0, "max_new_tokens": 64, "n": 32, "sampling_seed": 0}
    ).body
    stopped = [one for one in ended if one["meta_info"]["finish_reason"]["type"] == "stop"]
    assert stopped
    assert all(one["output_ids"][-1] == END_ID and END_ID not in one["output_ids"][:-1] for one in stopped)


def test_min_new_tokens_holds_off_stop_ids(server: Served) -> None:
    stop = server.generate(PROMPT, 1)["output_ids"][0]
    reply = server.generate(PROMPT, 9, ignore_eos=False, stop_token_ids=[stop], min_new_tokens=4)
    assert stop not in reply["output_ids"][:4]
    assert len(reply["output_ids"]) >= 4


def test_input_logprobs_start_where_asked_and_have_none_for_the_first(server: Served) -> None:
    temperature = 0.7 if server.capabilities.input_logprobs_at_temperature else 1.0
    server.generate(PROMPT)
    reply = server.generate(PROMPT, 2, temperature=temperature, top={"logprob_start_len": 3})
    entries = reply["meta_info"]["input_token_logprobs"]
    assert [entry[1] for entry in entries] == PROMPT[3:]
    assert entries[0][0] is None
    full = reference_logprobs(server.folders["base"], PROMPT, temperature)
    wanted = [full[place - 1, PROMPT[place]] for place in range(4, len(PROMPT))]
    assert np.abs(np.array([entry[0] for entry in entries[1:]]) - wanted).max() < 1e-4


def test_top_logprobs_hold_the_likeliest_tokens(server: Served) -> None:
    reply = server.generate(PROMPT, 3, top={"top_logprobs_num": 2})
    tops = reply["meta_info"]["output_top_logprobs"]
    assert [row[0][1] for row in tops] == reply["output_ids"]
    assert all(row[0][0] >= row[1][0] for row in tops)


def test_no_tokens_can_be_asked_for(server: Served) -> None:
    reply = server.generate(PROMPT, 0)
    assert reply["output_ids"] == []
    assert reply["meta_info"]["finish_reason"]["type"] == "length"


def test_a_stream_grows_to_the_same_answer(server: Served) -> None:
    whole = server.generate(PROMPT, 12)
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    sampling = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    body = json.dumps({"input_ids": PROMPT, "stream": True, "sampling_params": sampling})
    connection.request("POST", "/generate", body, headers(server.api_key))
    events = [line[6:] for line in connection.getresponse().read().decode().split("\n\n") if line]
    connection.close()
    assert events[-1] == "[DONE]"
    parts = [json.loads(event)["output_ids"] for event in events[:-1]]
    assert parts[-1] == whole["output_ids"]
    assert all(parts[-1][: len(part)] == part for part in parts)
    assert len(parts) > 2


def test_more_requests_than_may_run_wait_and_finish(server: Served) -> None:
    futures = [server.start(PROMPT[: 4 + index % 9], 20 + index, temperature=1.0) for index in range(30)]
    assert [len(future.result()["output_ids"]) for future in futures] == [20 + index for index in range(30)]


def test_more_tokens_than_fit_at_once_wait_and_finish(server: Served) -> None:
    rng = np.random.default_rng(4)
    prompts = [rng.integers(3, VOCABULARY, size).tolist() for size in (900, 20, 700, 950, 30, 800, 40, 600)]
    futures = [server.start(prompt, 60, temperature=1.0) for prompt in prompts]
    for prompt, future in zip(prompts, futures, strict=True):
        reply = future.result()
        assert np.abs(logprobs(reply) - expected(server.folders["base"], reply, prompt, 1.0)).max() < 1e-4


BAD_REQUESTS = {
    "no input": {},
    "both inputs": {"input_ids": [5], "text": "a"},
    "empty prompt": {"input_ids": []},
    "ids of the wrong type": {"input_ids": ["a"]},
    "mixed ids": {"input_ids": [4, [5]]},
    "negative temperature": {"input_ids": [5], "sampling_params": {"temperature": -1}},
    "temperature of the wrong type": {"input_ids": [5], "sampling_params": {"temperature": "hot"}},
    "top_p of zero": {"input_ids": [5], "sampling_params": {"top_p": 0}},
    "top_p over one": {"input_ids": [5], "sampling_params": {"top_p": 1.5}},
    "top_k of zero": {"input_ids": [5], "sampling_params": {"top_k": 0}},
    "unknown parameter": {"input_ids": [5], "sampling_params": {"temprature": 1}},
    "negative max_new_tokens": {"input_ids": [5], "sampling_params": {"max_new_tokens": -1}},
    "prompt over the context": {"input_ids": [5] * CONTEXT},
    "response over the context": {"input_ids": [5] * 100, "sampling_params": {"max_new_tokens": CONTEXT}},
}


def message(body: dict) -> str:
    """What an error says: SGLang has three shapes, for what it, its schema and its sampling parameters refuse."""
    error = body.get("error", body)
    return error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_400_and_hurts_no_other(server: Served, name: str) -> None:
    if name == "both inputs":
        server.lacks("refuses_two_prompts", "this engine takes one of them")
    beside = server.start(PROMPT, 30)
    answer = server.ask(**BAD_REQUESTS[name])
    assert answer.status == 400
    assert message(answer.body)
    assert len(beside.result()["output_ids"]) == 30


@pytest.mark.parametrize("token", [-1, VOCABULARY, 2**40])
def test_a_token_outside_of_the_vocabulary_is_refused(server: Served, token: int) -> None:
    server.lacks("checks_token_ids", "this engine does not check token ids, and dies of it")
    assert server.ask(input_ids=[5, token]).status == 400
    assert server.call("/health").status == 200


def test_a_body_that_is_no_json_is_answered_400(server: Served) -> None:
    assert server.call("/generate", b"{nonsense", server.api_key).status == 400


def test_a_request_id_in_flight_can_not_be_used_again(server: Served) -> None:
    first = server.start(PROMPT, 700, top={"rid": "twin"})
    server.wait_for(running=1)
    assert server.ask(input_ids=PROMPT, rid="twin").status == 400
    server.admin("/abort_request", {"rid": "twin"})
    assert first.result()["meta_info"]["id"] == "twin"
    assert server.ask(input_ids=PROMPT, rid="twin", sampling_params={"max_new_tokens": 1}).status == 200
