"""What actors make of a real server that aborts responses: one completion, with the versions of its pieces."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tokenizers import Tokenizer

from lamer.actors.inference import InferenceClient, InferenceOptions, RoutedPolicy
from lamer.actors.policy import Request, RequestKind
from lamer.actors.resuming import Endings
from lamer.actors.routing import Affinity, Place, Router
from lamer.common.messages import ServerInfo
from lamer.common.records import Completion, FinishReason
from tests.contract.served import END_ID, VOCABULARY, Served

TOKENS = 800


def request(first: int) -> Request:
    prompt = np.array([first, 20, 30, 40], dtype=np.int32)
    return Request(prompt, TOKENS, ("</action> </action> lies",), 0.0, 1.0, 0, 1, RequestKind.PLAY)


class CountingRouter(Router):
    """Counts the sendings."""

    sendings = 0

    async def acquire(self, affinity: Affinity) -> Place:
        self.sendings += 1
        return await super().acquire(affinity)


async def complete(server: Served, version: int, asked: Request, *disturbances: str) -> Completion:
    """The answer to a request during which the server is told all that, each until it has interrupted it."""
    tokenizer = Tokenizer.from_file(str(server.folders["base"] / "tokenizer.json"))
    endings = Endings(lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False), frozenset({END_ID}))
    router = CountingRouter()
    router.replace([ServerInfo("s", server.url, server.api_key, version, 8)])
    async with InferenceClient(InferenceOptions(60.0, 20, backoff_seconds=0.01), VOCABULARY) as client:
        answering = asyncio.create_task(RoutedPolicy(client, router, endings).complete(asked))
        for disturbance in disturbances:
            sendings = max(1, router.sendings)
            while router.sendings <= sendings:  # load figures may be late
                assert not answering.done(), answering.result()
                await asyncio.to_thread(server.wait_for, 1)
                await asyncio.to_thread(disturb, server, disturbance)
                await asyncio.sleep(0.05)
        return await answering


def disturb(server: Served, disturbance: str) -> None:
    if disturbance == "abort":
        assert server.admin("/abort_request", {"abort_all": True}).status == 200
    else:
        assert server.admin("/pause_generation", {"mode": "abort"}).status == 200
        assert server.update("other", disturbance).status == 200
        assert server.admin("/continue_generation").status == 200


@pytest.fixture
def endless(server: Served) -> Request:
    """A request whose greedy answer goes on to its most tokens."""
    assert server.update("base", "3").status == 200
    for first in range(10, 40):
        asked = request(first)
        if asyncio.run(complete(server, 3, asked)).finish_reason is FinishReason.LENGTH:
            return asked
    raise AssertionError("every greedy answer ends by itself")


def test_an_aborted_response_goes_on_to_what_it_would_have_been(server: Served, endless: Request) -> None:
    whole = asyncio.run(complete(server, 3, endless))
    pieces = asyncio.run(complete(server, 3, endless, "abort", "abort"))
    assert pieces.ids.tolist() == whole.ids.tolist()
    assert pieces.versions == whole.versions
    assert pieces.finish_reason is FinishReason.LENGTH
    np.testing.assert_allclose(pieces.behaviour_logprobs, whole.behaviour_logprobs, atol=1e-3)


def test_an_update_in_mode_abort_splits_the_versions_of_a_response(server: Served, endless: Request) -> None:
    completion = asyncio.run(complete(server, 3, endless, "4"))
    assert [span.version for span in completion.versions] == [3, 4]
    assert len(completion.ids) == TOKENS or completion.ids[-1] == END_ID
