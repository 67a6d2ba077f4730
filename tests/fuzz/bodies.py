"""Odd HTTP bodies to the embedded engine, beside honest requests. One process, one event loop, a real engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, TCPConnector
from aiohttp.test_utils import TestServer

from lamer.deploy.inference.embedded.auth import Keys
from lamer.deploy.inference.embedded.engine import Engine
from lamer.deploy.inference.embedded.server import Routes
from tests.fuzz.frames import rss_mib
from tests.fuzz.mutation import Mutator

ODD: tuple[object, ...] = (
    *(None, True, "", "x", "\u2028", [], {}, [[]], [None], ["a", 1], {"a": []}, 0, -1, 1, 2, 0.5, -0.5, 1e300, 1e-300),
    *(2**31, 2**63, 2**64, 2**70, -(2**63), 10**400, [5] * 3000, [[5]] * 9, "a" * 40_000, ["x"] * 300, "pause"),
)
AT_ONCE = 16
_HONEST = json.dumps(
    {"input_ids": [7, 60, 61], "sampling_params": {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}}
).encode()


@dataclass
class BodiesResult:
    """What came of odd bodies. answers: how many of each status. rss: MiB after a tenth of them, and at the end."""

    bodies: int
    seconds: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)
    honest: int = 0
    honest_errors: int = 0
    rss: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.answers.items()))
        return (
            f"{self.bodies} bodies, {self.bodies / self.seconds:.0f} a second; answers {answers}; honest requests: "
            f"{self.honest}, {self.honest / self.seconds:.0f} a second, errors among them: {self.honest_errors}; RSS "
            f"{self.rss[0]:.0f} -> {self.rss[1]:.0f} MiB"
        )


def odd_body(rng: random.Random, mutator: Mutator) -> bytes:
    """A body of /generate with something odd in it, or in its bytes."""
    sampling: dict[str, Any] = {"max_new_tokens": rng.choice((0, 1, 3)), "temperature": rng.choice((0, 0.7, 1))}
    body: dict[str, Any] = {"input_ids": [rng.randrange(320) for _ in range(rng.choice((1, 5, 40)))]}
    fields = ("rid", "text", "input_ids", "return_logprob", "logprob_start_len", "top_logprobs_num", "stream")
    fields += ("return_text_in_logprobs", "extra_key", "cache_salt", "sampling_params")
    params = ("max_new_tokens", "min_new_tokens", "temperature", "top_p", "top_k", "stop", "stop_token_ids", "n")
    params += ("ignore_eos", "sampling_seed", "skip_special_tokens", "no_stop_trim", "min_p", "made_up")
    body["sampling_params"] = sampling
    for _ in range(rng.choice((1, 1, 2, 4))):
        place, names = (sampling, params) if rng.random() < 0.6 else (body, fields)
        place[rng.choice(names)] = rng.choice(ODD)
    data = json.dumps(body).encode()
    return data if rng.random() < 0.7 else mutator.of_bytes(data)


@contextlib.asynccontextmanager
async def _serving(engine: Engine) -> AsyncIterator[tuple[str, ClientSession]]:
    stepping = asyncio.create_task(engine.run())
    app = Routes(engine, Keys("key", "admin")).application()
    async with (
        TestServer(app, handler_cancellation=True) as server,
        ClientSession(connector=TCPConnector(limit=0), headers={"Authorization": "Bearer key"}) as http,
    ):
        yield str(server.make_url("/generate")), http
        assert not stepping.done(), "the engine has ended"
    stepping.cancel()


async def fuzz_bodies(engine: Engine, seed: int, bodies: int) -> BodiesResult:
    """Send so many odd bodies, `AT_ONCE` at a time, while honest requests follow one another."""
    result, rng, mutator = BodiesResult(bodies), random.Random(seed), Mutator(seed)
    began = time.monotonic()
    async with _serving(engine) as (url, http):
        expected = await _ask(http, url, _HONEST)
        honest = asyncio.create_task(_be_honest(http, url, expected, result))
        sent = 0
        while sent < bodies:
            count = min(AT_ONCE, bodies - sent)
            answers = await asyncio.gather(*(_ask(http, url, odd_body(rng, mutator)) for _ in range(count)))
            result.answers.update(status for status, _ in answers)
            sent += count
            if not result.rss[0] and sent >= bodies // 10:
                result.rss = (rss_mib(), 0.0)
        honest.cancel()
        await asyncio.wait([honest])
        result.honest_errors += (await _ask(http, url, _HONEST)) != expected
    result.rss = (result.rss[0], rss_mib())
    result.seconds = time.monotonic() - began
    return result


async def _be_honest(http: ClientSession, url: str, expected: tuple[int, Sequence[int]], result: BodiesResult) -> None:
    while True:
        answer = await _ask(http, url, _HONEST)
        result.honest += 1
        result.honest_errors += answer != expected


async def _ask(http: ClientSession, url: str, body: bytes) -> tuple[int, Sequence[int]]:
    """(status, the ids of one plain reply)."""
    async with http.post(url, data=body) as answer:
        data = await answer.read()
        is_one = answer.status == 200 and data.startswith(b"{")
        return answer.status, json.loads(data)["output_ids"] if is_one else []
