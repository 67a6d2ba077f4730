"""Generation over HTTP: SGLang's `/generate`, spoken with aiohttp.

    InferenceClient   one per process: the connections; sends one request to one server, once
    RoutedPolicy      one per trial: the `Policy` that picks a server (`actors.routing`), with bounded retries

What goes over the wire and back is in `actors.generation`. Cancelling a request closes its connection, at which the
server aborts it: actors hold no admin key, so they have no other way.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from actors.generation import BadAnswer, check_ids, decode_answer, encode_request, error_message, refusal
from actors.policy import InferenceError, InferenceRefused, Request, retry_seed
from actors.routing import Place, Router
from common.messages import ServerInfo
from common.records import Completion

log = logging.getLogger("lamer.actor")

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which SGLang's HTTP server closes idle connections, so that none is closed while it is picked."""
LONGEST_BACKOFF_SECONDS = 8.0
_BUSY_STATUSES = frozenset({408, 425, 429})
_KEY_STATUSES = frozenset({401, 403})


class ServerUnavailable(InferenceError):
    """A server could not be reached, broke off, or says that it can't answer at present."""


@dataclass(frozen=True, slots=True)
class InferenceOptions:
    """request_seconds: bound of one sending. retries: after the first sending. backoff_seconds: before the first."""

    request_seconds: float
    retries: int
    backoff_seconds: float = 0.25


class InferenceClient:
    """The connections of one process to all servers, kept alive, as many as requests run. An async context manager."""

    def __init__(self, options: InferenceOptions, vocab_size: int) -> None:
        """Must be made inside a running event loop. vocab_size: prompts with other ids are refused here."""
        self.options = options
        self._vocab_size = vocab_size
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=options.request_seconds, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.close()

    async def generate(self, server: ServerInfo, request: Request, seed: int) -> Completion:
        """Send a request to a server, once.

        Raises:
            ServerUnavailable, BadAnswer: worth another try. ContextOverflow, InferenceRefused: not.
        """
        check_ids(request, self._vocab_size)
        body = encode_request(request, seed, server.policy_version)
        try:
            async with self._http.post(server.url + "/generate", data=body, headers=_headers(server.api_key)) as answer:
                status, data = answer.status, await answer.read()
        except TimeoutError as error:
            raise ServerUnavailable(f"no answer within {self.options.request_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(f"{type(error).__name__}: {error}") from error
        if status == 200:
            return decode_answer(data, request)
        if status in _KEY_STATUSES:
            raise InferenceRefused(f"the api key that the gateway gave us is refused ({status} {error_message(data)})")
        if status >= 500 or status in _BUSY_STATUSES:
            raise ServerUnavailable(f"status {status}: {error_message(data)}")
        raise refusal(status, data)


class RoutedPolicy:
    """The policy as one trial sees it: served by any server, preferably the one that answered last.

    min_version: servers that hold an older policy version are not used, so that an evaluation measures one version.
    """

    def __init__(self, client: InferenceClient, router: Router, min_version: int = 0) -> None:
        self._client = client
        self._router = router
        self._min_version = min_version
        self._place: Place | None = None

    async def complete(self, request: Request) -> Completion:
        """The response, after at most `InferenceOptions.retries` retries, each with its own seed.

        Raises:
            ContextOverflow: the prompt does not fit. InferenceRefused: a server refuses the request.
            InferenceError: no try gave a usable response; the message names the last server and its answer.
        """
        options = self._client.options
        retry = 0
        while True:
            place = await self._router.acquire(self._place, self._min_version)
            try:
                return await self._try(place, request, retry_seed(request.seed, retry))
            except (ServerUnavailable, BadAnswer) as error:
                if retry == options.retries:
                    raise InferenceError(f"{retry + 1} tries failed, the last with {error}") from error
                log.info("try %d of %d failed: %s", retry + 1, options.retries + 1, error)
            await asyncio.sleep(_backoff(options.backoff_seconds, retry))
            retry += 1

    async def _try(self, place: Place, request: Request, seed: int) -> Completion:
        """One sending from one place, which is given back; errors name the server."""
        has_failed = False
        server = place.info
        try:
            completion = await self._client.generate(server, request, seed)
        except InferenceError as error:
            has_failed = isinstance(error, ServerUnavailable)
            raise type(error)(f"server {server.name} at {server.url}: {error}") from error
        finally:
            self._router.release(place, has_failed)
        self._place = place
        return completion


def _backoff(first: float, retry: int) -> float:
    """Doubling, with jitter of half to one and a half, so that trials that failed together do not return together."""
    return min(LONGEST_BACKOFF_SECONDS, first * 2.0**retry) * random.uniform(0.5, 1.5)


@functools.lru_cache(maxsize=256)
def _headers(api_key: str) -> Mapping[str, str]:
    """Headers of a request; a server without keys gets none."""
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"Content-Type": "application/json", **key}
