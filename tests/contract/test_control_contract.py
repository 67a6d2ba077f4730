"""Pauses, aborts, weight updates, keys and information, as a host agent sees them."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import numpy as np
import pytest

from tests.contract.served import Served, headers, reference_logprobs

PROMPT = np.random.default_rng(7).integers(3, 300, 40).tolist()
LONG = 800


def spans(reply: dict) -> list[tuple[str, int, int]]:
    return [(span["version"], span["start"], span["end"]) for span in reply["meta_info"]["weight_versions"]]


def gap(folder: Path, reply: dict, prompt: list[int]) -> np.ndarray:
    """How far each token's logprob is from that of a transformers forward with `folder`'s weights."""
    ids = reply["output_ids"]
    full = reference_logprobs(folder, prompt + ids, 1.0)
    wanted = full[np.arange(len(prompt) - 1, len(prompt) + len(ids) - 1), ids]
    return np.abs(np.array([entry[0] for entry in reply["meta_info"]["output_token_logprobs"]]) - wanted)


def test_after_an_update_a_prompt_seen_before_gets_the_new_weights(server: Served) -> None:
    server.generate(PROMPT, 4)
    answer = server.update("other", "v1", flush_cache=not server.capabilities.forgets_on_update)
    assert answer.status == 200
    assert answer.body["success"] is True
    reply = server.generate(PROMPT, 16)
    assert reply["meta_info"]["cached_tokens"] == 0
    assert gap(server.folders["other"], reply, PROMPT).max() < 1e-4
    assert gap(server.folders["base"], reply, PROMPT).max() > 1e-2
    assert spans(reply) == [("v1", 0, 16)]
    assert reply["meta_info"]["weight_version"] == "v1"


def test_in_place_held_requests_resume_on_the_old_cache_with_their_spans_split(server: Served) -> None:
    held = server.start(PROMPT, LONG)
    server.wait_for(running=1)
    assert server.admin("/pause_generation", {"mode": "in_place"}).status == 200
    assert server.loads() == (1, 0)
    assert server.admin("/flush_cache").status == 400
    assert server.update("other", "v1", flush_cache=False).status == 200
    assert not held.done()
    server.admin("/continue_generation")
    reply = held.result()
    (first, second) = spans(reply)
    assert (first[0], second[0]) == ("v0", "v1")
    assert (first[1], first[2], second[2]) == (0, second[1], LONG)
    assert reply["meta_info"]["num_retractions"] == 0
    assert gap(server.folders["base"], reply, PROMPT)[: first[2]].max() < 1e-4
    assert gap(server.folders["other"], reply, PROMPT)[second[1]] > 1e-6  # the old keys are still in use


def test_a_sequence_held_over_an_update_is_never_reused_as_a_prefix(server: Served) -> None:
    server.lacks("forgets_on_update", "this engine keeps what it computed under older weights until it is flushed")
    held = server.start(PROMPT, 200)
    server.wait_for(running=1)
    server.admin("/pause_generation", {"mode": "in_place"})
    server.update("other", "v1")
    server.admin("/continue_generation")
    whole = PROMPT + held.result()["output_ids"]
    reply = server.generate(whole, 8)
    assert reply["meta_info"]["cached_tokens"] == 0
    assert gap(server.folders["other"], reply, whole).max() < 1e-4


def test_retracted_requests_are_computed_anew_by_the_new_weights(server: Served) -> None:
    held = server.start(PROMPT, LONG)
    server.wait_for(running=1)
    server.admin("/pause_generation", {"mode": "retract"})
    if server.capabilities.sees_held_requests:
        assert server.loads() == (0, 1)
    assert server.admin("/flush_cache").status == 200
    server.update("other", "v1")
    server.admin("/continue_generation")
    reply = held.result()
    (first, second) = spans(reply)
    assert (first[0], second[0], second[2]) == ("v0", "v1", LONG)
    assert reply["meta_info"]["num_retractions"] == 1
    assert gap(server.folders["base"], reply, PROMPT)[: first[2]].max() < 1e-4
    assert gap(server.folders["other"], reply, PROMPT)[second[1] :].max() < 1e-4


@pytest.mark.parametrize("mode", ["in_place", "retract"])
def test_a_pause_without_an_update_changes_no_token(server: Served, mode: str) -> None:
    held = server.start(PROMPT, 300, temperature=1.0, sampling_seed=1)
    server.wait_for(running=1)
    server.admin("/pause_generation", {"mode": mode})
    server.admin("/continue_generation")
    reply = held.result()
    assert spans(reply) == [("v0", 0, 300)]
    assert gap(server.folders["base"], reply, PROMPT).max() < 1e-4


def test_an_abort_pause_returns_partial_tokens_and_new_requests_hang_until_continue(server: Served) -> None:
    cut = server.start(PROMPT, LONG)
    server.wait_for(running=1)
    server.admin("/pause_generation")
    reply = cut.result()
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"
    assert len(reply["output_ids"]) == reply["meta_info"]["completion_tokens"] < LONG
    late = server.start(PROMPT, 5)
    if server.capabilities.sees_held_requests:
        server.wait_for(running=0, waiting=1)
    assert server.call("/health").status == 503
    assert not late.done()
    server.admin("/continue_generation")
    assert len(late.result()["output_ids"]) == 5
    assert server.call("/health").status == 200


def test_an_update_without_a_pause_lets_running_requests_finish_first(server: Served) -> None:
    running = server.start(PROMPT, 400)
    server.wait_for(running=1)
    update = server.pool.submit(server.update, "other", "v1")
    assert spans(running.result()) == [("v0", 0, 400)]
    assert update.result().status == 200
    assert spans(server.generate(PROMPT, 3)) == [("v1", 0, 3)]


def test_an_update_can_abort_what_runs(server: Served) -> None:
    running = server.start(PROMPT, LONG)
    server.wait_for(running=1)
    assert server.update("other", "v1", abort_all_requests=True).status == 200
    assert running.result()["meta_info"]["finish_reason"]["type"] == "abort"


@pytest.mark.parametrize("name", ["broken", "missing"])
def test_a_folder_that_can_not_be_loaded_leaves_the_old_weights_and_version(server: Served, name: str) -> None:
    if name == "broken":
        server.lacks("survives_broken_shards", "this engine dies of a broken shard: hosts compare its hash before")
    before = server.generate(PROMPT, 6)
    answer = server.update(name, "v9")
    assert answer.status == 400
    assert answer.body["success"] is False
    assert answer.body["message"]
    after = server.generate(PROMPT, 6)
    assert after["output_ids"] == before["output_ids"]
    assert spans(after) == [("v0", 0, 6)]


def test_an_update_without_a_version_keeps_the_old_label(server: Served) -> None:
    server.update("other", None)
    assert server.call("/model_info", key=server.api_key).body["weight_version"] == "v0"
    assert spans(server.generate(PROMPT, 2)) == [("v0", 0, 2)]


def test_the_version_can_be_renamed_alone(server: Served) -> None:
    answer = server.admin("/update_weight_version", {"new_version": "named", "abort_all_requests": False})
    assert answer.status == 200
    assert spans(server.generate(PROMPT, 2)) == [("named", 0, 2)]
    assert server.call("/model_info", key=server.api_key).body["weight_version"] == "named"


def test_an_abort_by_id_returns_the_partial_tokens(server: Served) -> None:
    cut, kept = server.start(PROMPT, LONG, top={"rid": "cut"}), server.start(PROMPT[:9], 300)
    server.wait_for(running=2)
    assert server.admin("/abort_request", {"rid": "cut"}).status == 200
    reply = cut.result()
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"
    assert gap(server.folders["base"], reply, PROMPT).max(initial=0.0) < 1e-4
    assert len(kept.result()["output_ids"]) == 300


def test_an_abort_reaches_waiting_requests_too(server: Served) -> None:
    server.lacks("sees_held_requests", "this engine does not know of a request before the pause ends")
    server.admin("/pause_generation")
    waiting = server.start(PROMPT, 5, top={"rid": "waits"})
    server.wait_for(waiting=1)
    server.admin("/abort_request", {"rid": "waits"})
    reply = waiting.result()
    assert (reply["output_ids"], reply["meta_info"]["finish_reason"]["type"]) == ([], "abort")


def test_an_unknown_id_is_aborted_without_complaint(server: Served) -> None:
    assert server.admin("/abort_request", {"rid": "nobody"}).status == 200


def test_a_client_that_disconnects_frees_its_place(server: Served) -> None:
    kept = server.start(PROMPT, LONG)
    server.wait_for(running=1)
    sampling = {"max_new_tokens": 900, "ignore_eos": True}  # it would outlive the other
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({"input_ids": [5, 6, 7], "sampling_params": sampling})
    connection.request("POST", "/generate", body, headers(server.api_key))
    server.wait_for(running=2)
    connection.close()
    server.wait_for(running=1)
    assert not kept.done()


def test_a_bad_pause_mode_is_refused(server: Served) -> None:
    assert server.admin("/pause_generation", {"mode": "perhaps"}).status == 400


def test_information_names_the_model_and_its_version(server: Served) -> None:
    for path in ("/model_info", "/get_model_info"):
        body = server.call(path, key=server.api_key).body
        assert (body["model_path"], body["weight_version"]) == (str(server.folders["base"]), "v0")
    assert server.call("/server_info", key=server.api_key).body["max_running_requests"] == 8
    assert server.call("/health_generate").status == 200


NORMAL = [("/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 1}}), ("/model_info", None)]
ADMIN = [
    ("/pause_generation", {"mode": "in_place"}),
    ("/continue_generation", {}),
    ("/abort_request", {"rid": "nobody"}),
    ("/flush_cache", {}),
    ("/update_weights_from_disk", {"model_path": "nowhere"}),
    ("/update_weight_version", {"new_version": "v0"}),
]


@pytest.mark.parametrize(("path", "body"), NORMAL)
def test_generation_takes_the_api_key_only(server: Served, path: str, body: object) -> None:
    statuses = [server.call(path, body, key).status for key in (None, "wrong", server.admin_key, server.api_key)]
    assert statuses == [401, 401, 401, 200]
    assert server.call(path, body).body == {"error": "Unauthorized"}


@pytest.mark.parametrize(("path", "body"), ADMIN)
def test_administration_takes_the_admin_key_only(server: Served, path: str, body: object) -> None:
    assert [server.call(path, body, key).status for key in (None, "wrong", server.api_key)] == [401, 401, 401]
    assert server.call(path, body, server.admin_key).status == (400 if "disk" in path else 200)
    server.call("/continue_generation", {}, server.admin_key)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_is_open(server: Served, path: str) -> None:
    assert server.call(path).status == 200
