"""The simulated server over real HTTP: SGLang's contract as actors and host agents use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from lamer.deploy.bench.pace import Pace
from lamer.deploy.bench.paced import PacedOptions, PacedServer
from lamer.deploy.inference.engines.client import ServerClient, ServerRefused

SLOW = Pace(step_seconds=1000.0)


@asynccontextmanager
async def serving(
    pace: Pace | None = None, time_scale: float = 200.0, api_key: str = "user", admin_key: str = "admin"
) -> AsyncIterator[str]:
    """A server on a free port; its URL."""
    options = PacedOptions(time_scale=time_scale, api_key=api_key, admin_key=admin_key, pace=pace or Pace())
    runner = web.AppRunner(PacedServer(options).make_app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def generate(http: aiohttp.ClientSession, url: str, key: str = "user", **body: object) -> tuple[int, Any]:
    """POST /generate with a 700-token prompt unless `body` says otherwise; status and decoded answer."""
    request = {"input_ids": [7] * 700, "return_logprob": True, **body}
    async with http.post(f"{url}/generate", json=request, headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status, await response.json()


def sampling(seed: int, **others: object) -> dict[str, object]:
    return {"max_new_tokens": 1024, "temperature": 1.0, "sampling_seed": seed, **others}


async def wait_for_load(client: ServerClient, running: int, waiting: int = 0) -> None:
    """Ask for the load until it is as expected; a test's own timeout ends the wait."""
    load = await client.loads()
    while (load.num_running_reqs, load.num_waiting_reqs) != (running, waiting):
        load = await client.loads()


async def test_an_answer_has_ids_logprobs_and_spans_of_one_length() -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        status, answer = await generate(http, url, sampling_params=sampling(5, stop=["</action>"]))
    meta = answer["meta_info"]
    assert status == 200
    assert meta["completion_tokens"] == len(answer["output_ids"]) == len(meta["output_token_logprobs"])
    assert [entry[1] for entry in meta["output_token_logprobs"]] == answer["output_ids"]
    assert all(entry[0] <= 0.0 for entry in meta["output_token_logprobs"])
    assert meta["weight_versions"] == [{"version": "0", "start": 0, "end": len(answer["output_ids"])}]
    assert (meta["weight_version"], meta["prompt_tokens"], meta["cached_tokens"]) == ("0", 700, 490)
    assert meta["finish_reason"] == {"type": "stop", "matched": "</action>"}


async def test_the_sampling_seed_alone_decides_a_response() -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        answers = [(await generate(http, url, sampling_params=sampling(seed)))[1] for seed in (5, 5, 6)]
    assert answers[0]["output_ids"] == answers[1]["output_ids"]
    assert answers[0]["output_ids"] != answers[2]["output_ids"]


async def test_a_response_is_cut_at_max_new_tokens() -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        _, answer = await generate(http, url, sampling_params=sampling(5, max_new_tokens=10))
    assert len(answer["output_ids"]) == 10
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 10}


async def test_bad_requests_are_refused_with_the_reason() -> None:
    async with serving(SLOW) as url, aiohttp.ClientSession() as http:
        assert (await generate(http, url, input_ids=[]))[0] == 400
        assert (await generate(http, url, input_ids=[[1], [2]]))[0] == 400
        status, answer = await generate(http, url, sampling_params={"temperature": -1.0})
        assert status == 400
        assert "-1.0" in answer["error"]["message"]


async def test_a_live_request_id_cannot_be_used_twice() -> None:
    async with serving(SLOW) as url, aiohttp.ClientSession() as http:
        client = ServerClient(url, "user", "admin")
        first = asyncio.create_task(generate(http, url, rid="same", sampling_params=sampling(1)))
        await wait_for_load(client, 1)
        status, answer = await generate(http, url, rid="same", sampling_params=sampling(1))
        first.cancel()
        await client.close()
    assert status == 400
    assert "same" in answer["error"]["message"]


async def test_each_route_takes_only_its_own_key() -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        for key, expected in (("user", 200), ("admin", 401), ("", 401)):
            assert (await generate(http, url, key=key, sampling_params=sampling(1)))[0] == expected
        for key, expected in (("admin", 200), ("user", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            async with http.post(f"{url}/pause_generation", json={"mode": "in_place"}, headers=headers) as response:
                assert response.status == expected
        async with http.get(f"{url}/health") as response:
            assert response.status == 200


async def test_without_keys_everything_is_open() -> None:
    async with serving(api_key="", admin_key="") as url, aiohttp.ClientSession() as http:
        assert (await generate(http, url, key="", sampling_params=sampling(1)))[0] == 200
        async with http.post(f"{url}/flush_cache") as response:
            assert response.status == 200


async def test_a_client_that_disconnects_frees_its_place() -> None:
    async with serving(SLOW) as url, aiohttp.ClientSession() as http:
        client = ServerClient(url, "user", "admin")
        request = asyncio.create_task(generate(http, url, sampling_params=sampling(1)))
        await wait_for_load(client, 1)
        request.cancel()
        await wait_for_load(client, 0)
        await client.close()


async def test_a_weight_update_in_the_middle_of_a_response_splits_its_span(tmp_path: Path) -> None:
    async with serving(Pace(step_seconds=1.0)) as url, aiohttp.ClientSession() as http:
        client = ServerClient(url, "user", "admin")
        request = asyncio.create_task(generate(http, url, sampling_params=sampling(1)))
        await wait_for_load(client, 1)
        await client.pause("in_place")
        await client.load_weights(str(tmp_path), "1", flush_cache=False)
        assert (await client.model_info()).weight_version == "1"
        assert not request.done()
        await client.resume()
        _, answer = await request
        await client.close()
    meta = answer["meta_info"]
    assert [span["version"] for span in meta["weight_versions"]] == ["0", "1"]
    assert meta["weight_versions"][1]["end"] == meta["completion_tokens"]
    assert meta["weight_version"] == "1"


async def test_a_bad_weights_folder_is_refused_and_the_old_version_stays(tmp_path: Path) -> None:
    async with serving() as url:
        client = ServerClient(url, "user", "admin")
        with pytest.raises(ServerRefused, match="missing"):
            await client.load_weights(str(tmp_path / "missing"), "1", flush_cache=True)
        assert (await client.model_info()).weight_version == "0"
        await client.close()


async def test_an_update_without_a_pause_waits_for_the_running_requests(tmp_path: Path) -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        client = ServerClient(url, "user", "admin")
        request = asyncio.create_task(generate(http, url, sampling_params=sampling(1)))
        await wait_for_load(client, 1)
        await client.load_weights(str(tmp_path), "1", flush_cache=True)
        _, answer = await request
        await client.close()
    assert [span["version"] for span in answer["meta_info"]["weight_versions"]] == ["0"]


async def test_a_pause_that_aborts_returns_partial_responses_and_holds_new_ones() -> None:
    async with serving(Pace(step_seconds=1.0)) as url, aiohttp.ClientSession() as http:
        client = ServerClient(url, "user", "admin")
        first = asyncio.create_task(generate(http, url, sampling_params=sampling(1)))
        await wait_for_load(client, 1)
        await client.pause("abort")
        status, answer = await first
        held = asyncio.create_task(generate(http, url, sampling_params=sampling(2, max_new_tokens=1)))
        await wait_for_load(client, 0, waiting=1)
        async with http.get(f"{url}/health") as response:
            assert response.status == 503
        await client.resume()
        await held
        await client.close()
    assert status == 200
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"


async def test_the_server_says_that_it_is_simulated_and_counts_its_tokens() -> None:
    async with serving() as url, aiohttp.ClientSession() as http:
        _, answer = await generate(http, url, sampling_params=sampling(1))
        async with http.get(f"{url}/server_info", headers={"Authorization": "Bearer user"}) as response:
            info = await response.json()
    assert info["is_simulated"] is True
    assert info["tokens"] == answer["meta_info"]["completion_tokens"]
    assert info["max_running_requests"] == 512
