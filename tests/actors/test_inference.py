"""The client and its retries, against a real HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import numpy as np
import pytest

from lamer.actors.inference import InferenceClient, InferenceOptions, RoutedPolicy
from lamer.actors.policy import ContextOverflow, InferenceError, InferenceRefused, Request, RequestKind
from lamer.actors.routing import Affinity, Router
from lamer.common.messages import ServerInfo
from tests.actors.parts import encode
from tests.actors.sglang_server import Answer, refusing, saying, serving

OPTIONS = InferenceOptions(request_seconds=5.0, retries=3, backoff_seconds=0.001)
VOCABULARY = 264


def request(ids: tuple[int, ...] = (3, 4)) -> Request:
    return Request(np.array(ids, dtype=np.int32), 16, ("</action>",), 0.8, 1.0, 0, 7, RequestKind.PLAY)


@contextlib.asynccontextmanager
async def policy_for(*servers: ServerInfo, options: InferenceOptions = OPTIONS) -> AsyncIterator[RoutedPolicy]:
    router = Router(set_aside_seconds=0.001)
    router.replace(servers)
    async with InferenceClient(options, VOCABULARY) as client:
        yield RoutedPolicy(client, router)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_response_comes_back_with_versions_and_logprobs() -> None:
    answer = saying("<action>3</action>", version="7")
    async with serving(answer, api_key="k") as server, policy_for(server.info()) as policy:
        completion = await policy.complete(request())
    assert completion.ids.tolist() == encode("<action>3</action>").tolist()
    assert completion.oldest_version == 7
    assert server.bodies[0].input_ids == [3, 4]
    assert server.bodies[0].sampling_params.sampling_seed == 7


async def test_trouble_that_passes_is_tried_again_with_another_seed() -> None:
    async with serving(saying("ok")) as server, policy_for(server.info()) as policy:
        server.script.extend([refusing(503, "paused"), saying("part", finish="abort"), saying("")])
        await policy.complete(request())
    seeds = [body.sampling_params.sampling_seed for body in server.bodies]
    assert len(set(seeds)) == len(seeds) == 4


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(refusing(500, "boom"), "500: boom"), (saying("", finish="abort"), "reason abort"), (saying(""), "no tokens")],
)
async def test_retries_are_bounded(answer: Answer, problem: str) -> None:
    async with serving(answer) as server, policy_for(server.info()) as policy:
        with pytest.raises(
            InferenceError, match=f"4 tries failed, the last with server s at {server.url}: .*{problem}"
        ):
            await policy.complete(request())
    assert len(server.bodies) == 4


async def test_a_server_that_is_not_there_is_tried_a_bounded_number_of_times() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with policy_for(ServerInfo("gone", url, "", 0, 8)) as policy:
        with pytest.raises(InferenceError, match="gone"):
            await policy.complete(request())


async def test_another_server_takes_over() -> None:
    async with serving(saying("ok")) as server:
        gone = ServerInfo("gone", f"http://127.0.0.1:{free_port()}", "", 0, 10**9)
        async with policy_for(gone, server.info()) as policy:
            for _ in range(4):
                await policy.complete(request())
    assert len(server.bodies) == 4


async def test_a_prompt_too_long_for_the_server_overflows_at_once() -> None:
    too_long = refusing(400, "The input (9 tokens) is longer than the model's context length (8 tokens).")
    async with serving(too_long) as server, policy_for(server.info()) as policy:
        with pytest.raises(ContextOverflow, match="server s"):
            await policy.complete(request())
    assert len(server.bodies) == 1


async def test_a_refused_request_is_not_sent_again() -> None:
    async with serving(refusing(400, "bad temperature")) as server, policy_for(server.info()) as policy:
        with pytest.raises(InferenceRefused, match="bad temperature"):
            await policy.complete(request())
    assert len(server.bodies) == 1


async def test_a_wrong_api_key_is_named_with_its_server() -> None:
    async with serving(saying("ok"), api_key="right") as server, policy_for(server.info(api_key="wrong")) as policy:
        with pytest.raises(InferenceRefused, match=r"server s at http.*api key.*401 Unauthorized"):
            await policy.complete(request())


async def test_ids_outside_the_vocabulary_never_reach_a_server() -> None:
    async with serving(saying("ok")) as server, policy_for(server.info()) as policy:
        with pytest.raises(InferenceRefused, match=str(VOCABULARY)):
            await policy.complete(request((1, VOCABULARY)))
    assert server.bodies == []


async def test_a_request_without_an_answer_is_given_up_and_tried_again() -> None:
    options = InferenceOptions(request_seconds=0.1, retries=1, backoff_seconds=0.001)
    async with serving(saying("ok")) as server, policy_for(server.info(), options=options) as policy:
        server.gate.clear()
        with pytest.raises(InferenceError, match=r"no answer within 0\.1 s"):
            await policy.complete(request())
        assert len(server.bodies) == 2


async def test_cancelling_closes_the_connection() -> None:
    async with serving(saying("ok")) as server, policy_for(server.info()) as policy:
        server.gate.clear()
        asking = asyncio.create_task(policy.complete(request()))
        await server.arrived.wait()
        asking.cancel()
        await asyncio.wait_for(server.disconnected.wait(), 5.0)
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_place_is_given_back_however_a_request_ends() -> None:
    async with serving(saying("ok")) as server:
        router = Router(set_aside_seconds=0.001)
        router.replace([server.info()])
        async with InferenceClient(OPTIONS, VOCABULARY) as client:
            policy = RoutedPolicy(client, router)
            server.script.append(refusing(503, "busy"))
            await policy.complete(request())
            server.gate.clear()
            server.arrived.clear()
            asking = asyncio.create_task(policy.complete(request()))
            await server.arrived.wait()
            asking.cancel()
            await asyncio.wait({asking})
            server.gate.set()
            place = await router.acquire(Affinity())
    assert place.in_flight == 1  # ours


async def test_connections_are_kept_alive() -> None:
    async with serving(saying("ok")) as server, policy_for(server.info()) as policy:
        for _ in range(5):
            await policy.complete(request())
    assert len(server.bodies) == 5
    assert len(server.peers) == 1


async def test_an_evaluation_takes_no_answer_of_another_version() -> None:
    async with serving(saying("ok", version="4")) as server:
        server.script.append(saying("late", version="5"))
        router = Router(set_aside_seconds=0.001)
        router.replace([server.info(version=4)])
        async with InferenceClient(OPTIONS, VOCABULARY) as client:
            policy = RoutedPolicy(client, router, affinity=Affinity(version=4))
            completion = await policy.complete(request())
    assert completion.oldest_version == 4
    assert len(server.bodies) == 2


async def test_requests_at_a_server_that_left_the_list_are_sent_elsewhere() -> None:
    async with serving(saying("ok")) as server, serving(saying("ok")) as other:
        router = Router(grace_seconds=0.05)
        router.replace([server.info("gone")])
        async with InferenceClient(OPTIONS, VOCABULARY) as client:
            server.gate.clear()
            asking = asyncio.create_task(RoutedPolicy(client, router).complete(request()))
            await server.arrived.wait()
            router.replace([other.info("stays")])
            await asyncio.wait_for(asking, 4.0)
            await asyncio.wait_for(server.disconnected.wait(), 4.0)
    assert (len(server.bodies), len(other.bodies)) == (1, 1)
