"""The embedded engine under odd requests: each is refused before any work, and none reaches anybody else's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from lamer.deploy.inference.embedded import engine as engine_module
from lamer.deploy.inference.embedded.auth import Keys
from lamer.deploy.inference.embedded.bounds import (
    BYTES_A_TOKEN,
    LONGEST_NAME,
    LONGEST_STOP,
    MOST_SEQUENCES,
    MOST_STOP_IDS,
    MOST_STOPS,
)
from lamer.deploy.inference.embedded.engine import Engine, EngineOptions, PauseMode
from lamer.deploy.inference.embedded.sequence import Sequence
from lamer.deploy.inference.embedded.server import MOST_BODY_BYTES, Routes
from lamer.deploy.inference.embedded.table import RunningTable
from tests.contract.served import CONTEXT, VOCABULARY, write_models

BEARER = {"Authorization": "Bearer key"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(EngineOptions(write_models(tmp_path_factory.mktemp("models"))["base"], max_running=8))


class Client:
    """Asks the engine over HTTP."""

    def __init__(self, url: str, http: ClientSession) -> None:
        self.url, self.http = url, http

    async def post(self, data: bytes) -> tuple[int, Any]:
        async with self.http.post(self.url + "/generate", data=data, headers=BEARER) as answer:
            return answer.status, json.loads(await answer.read())

    async def sampling(self, **params: object) -> tuple[int, Any]:
        return await self.post(json.dumps({"input_ids": [5, 6], "sampling_params": params}).encode())

    async def is_well(self) -> bool:
        status, reply = await self.sampling(max_new_tokens=3, temperature=0, ignore_eos=True)
        return status == 200 and len(reply["output_ids"]) == 3

    async def get(self, path: str, headers: dict[str, str]) -> int:
        async with self.http.get(self.url + path, headers=headers) as answer:
            return answer.status


@contextlib.asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Client]:
    """The engine made anew for this loop, and stepping."""
    engine._work, engine._settled, engine._updating = asyncio.Event(), asyncio.Event(), asyncio.Lock()
    stepping = asyncio.create_task(engine.run())
    app = Routes(engine, Keys("key", "admin")).application()
    async with TestServer(app, handler_cancellation=True) as server, ClientSession() as http:
        yield Client(str(server.make_url("")).rstrip("/"), http)
        assert not stepping.done()
    stepping.cancel()


ACCEPTED: list[dict[str, object]] = [
    {"top_k": 2**31 - 1, "max_new_tokens": 1},
    {"top_k": 1, "max_new_tokens": 1},
    {"temperature": 1e6, "max_new_tokens": 1},
    {"temperature": 1e-300, "max_new_tokens": 1},
    {"sampling_seed": 2**64 + 5, "max_new_tokens": 1},
    {"sampling_seed": -(2**70), "max_new_tokens": 1},
    {"stop_token_ids": [VOCABULARY - 1] * MOST_STOP_IDS, "max_new_tokens": 1},
    {"stop": [str(number) for number in range(MOST_STOPS)], "max_new_tokens": 1},
    {"stop": "x" * LONGEST_STOP, "max_new_tokens": 1},
    {"max_new_tokens": 0},
]
REFUSED: list[dict[str, object]] = [
    {"top_k": 2**31},
    {"top_k": 18446744073709551616},
    {"top_k": 2**70},
    {"top_k": 0},
    {"top_k": -(2**70)},
    {"temperature": -1e-9},
    {"temperature": 1e7},
    {"max_new_tokens": 2**64},
    {"max_new_tokens": -1},
    {"max_new_tokens": CONTEXT},
    {"min_new_tokens": 2**70, "max_new_tokens": None},
    {"n": 2**70},
    {"n": 257},
    {"n": 0},
    {"n": -(2**70)},
    {"top_p": 0},
    {"top_p": 1e300},
    {"stop_token_ids": [2**70]},
    {"stop_token_ids": [VOCABULARY]},
    {"stop_token_ids": [1] * (MOST_STOP_IDS + 1)},
    {"stop": ["x"] * (MOST_STOPS + 1)},
    {"stop": "x" * (LONGEST_STOP + 1)},
    {"stop": ["a", ""]},
]


async def test_every_parameter_is_bounded_before_any_work(engine: Engine) -> None:
    async with serving(engine) as client:
        for params in ACCEPTED:
            assert (await client.sampling(**params))[0] == 200, params
        for params in REFUSED:
            status, reply = await client.sampling(**params)
            assert (status, len(reply["error"]["message"]) < 300) == (400, True), params
        assert await client.is_well()


BODIES = {
    "nested": b'{"text":' + b"[" * 100_000,
    "nested elsewhere": b'{"x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "a temperature that is no number": b'{"input_ids":[5],"sampling_params":{"temperature":NaN}}',
    "an endless temperature": b'{"input_ids":[5],"sampling_params":{"temperature":1e999}}',
    "a number of 10,000 digits": b'{"input_ids":[5],"sampling_params":{"top_k":' + b"9" * 10_000 + b"}}",
    "half of a letter": b'{"text":"\\ud800"}',
    "no text": b"\xff\xfe",
    "ids beyond 63 bits": b'{"input_ids":[18446744073709551616]}',
    "too many prompts": json.dumps({"input_ids": [[5]] * (MOST_SEQUENCES + 1)}).encode(),
    "too many samples": json.dumps({"input_ids": [[5]] * 17, "sampling_params": {"n": 256}}).encode(),
    "a long name": json.dumps({"input_ids": [5], "rid": "x" * (LONGEST_NAME + 1)}).encode(),
    "a long salt": json.dumps({"input_ids": [5], "cache_salt": "x" * (LONGEST_NAME + 1)}).encode(),
    "texts of all alternatives": json.dumps(
        {
            "input_ids": [5],
            "return_logprob": True,
            "top_logprobs_num": 64,
            "return_text_in_logprobs": True,
            "sampling_params": {"max_new_tokens": CONTEXT - 1},
        }
    ).encode(),
}


async def test_odd_bodies_are_refused(engine: Engine) -> None:
    async with serving(engine) as client:
        for name, body in BODIES.items():
            assert (await client.post(body))[0] == 400, name
        assert await client.is_well()


async def test_a_text_that_can_not_fit_is_refused_before_it_is_tokenised(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[int] = []
    encode = engine.text.encode
    monkeypatch.setattr(engine.text, "encode", lambda text: (tokenised.append(len(text)), encode(text))[1])
    async with serving(engine) as client:
        longest = BYTES_A_TOKEN * CONTEXT
        for length, expected in ((longest, 400), (longest + 1, 400), (4_000_000, 400), (MOST_BODY_BYTES + 1, 413)):
            status, reply = await client.post(json.dumps({"text": "a" * length}).encode())
            assert status == expected
            assert "context length" in reply["error"]["message"] or status == 413
        assert tokenised == [longest]  # which may fit, and does not
        assert await client.is_well()


async def test_a_sequence_that_can_not_be_entered_ends_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours, planted, since none is known: others run on, and its row is free again."""
    enter = RunningTable.enter

    def fail(self: RunningTable, row: int, sequence: Sequence) -> None:
        if sequence.params.top_k == 7:
            self.top_k[row] = 2**64
        enter(self, row, sequence)

    monkeypatch.setattr(RunningTable, "enter", fail)
    async with serving(engine) as client:
        other = asyncio.create_task(client.sampling(max_new_tokens=200, ignore_eos=True))
        for _ in range(20):  # more than there are rows
            status, reply = await client.sampling(top_k=7, max_new_tokens=1)
            assert (status, "OverflowError" in reply["error"]["message"]) == (500, True)
        assert (await other)[0] == 200
        assert await client.is_well()
        assert engine.running_count == 0
    assert "can't be entered and is ended" in caplog.text


async def test_beyond_what_may_wait_nothing_is_taken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_WAITING", 4)
    async with serving(engine) as client:
        engine.pause(PauseMode.IN_PLACE)
        waiting = [asyncio.create_task(client.sampling(max_new_tokens=1)) for _ in range(4)]
        while engine.waiting_count < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        status, reply = await client.sampling(max_new_tokens=1)
        assert (status, reply["error"]["message"]) == (
            503,
            "4 requests wait already: nothing more is taken at present",
        )
        engine.resume()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 4
        assert await client.is_well()


async def test_what_waits_is_bounded_in_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_WAITING_TOKENS", 10)
    async with serving(engine) as client:
        engine.pause(PauseMode.IN_PLACE)
        waiting = [asyncio.create_task(client.sampling(max_new_tokens=1)) for _ in range(5)]  # of two tokens
        while engine.waiting_count < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await client.sampling(max_new_tokens=1))[0] == 503
        engine.resume()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 5


async def test_health_generates_only_for_who_may_generate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda sequences: (submitted.append(len(sequences)), submit(sequences))[1])
    async with serving(engine) as client:
        assert await client.get("/health_generate", {}) == 200
        assert await client.get("/health_generate", {"Authorization": "Bearer wrong"}) == 200
        assert submitted == []
        assert await client.get("/health_generate", BEARER) == 200
        assert submitted == [1]


async def test_a_defect_in_a_handler_is_one_clients_500(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sequences: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    async with serving(engine) as client:
        with monkeypatch.context() as planted:
            planted.setattr(engine, "submit", fail)
            status, reply = await client.sampling(max_new_tokens=1)
        assert (status, "nobody foresaw it" in reply["error"]["message"]) == (500, True)
        assert await client.is_well()
