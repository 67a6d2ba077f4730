"""Generation over HTTP: SGLang's `/generate`, spoken with aiohttp.

    InferenceClient   one per process: the connections; sends one request to one server, once
    RoutedPolicy      one per trial: the `Policy` that picks a server (`actors.routing`), with bounded retries, and has
                      aborted responses go on from their partial tokens (`actors.resuming`)

What goes over the wire and back is in `actors.generation`. Cancelling a request closes its connection, at which the
server aborts it: actors hold no admin key, so they have no other way. A server that vanished without a word, its
machine or the network cut off, is noticed by TCP's keepalive after `VANISHED_SECONDS`, however long an answer may take.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import AddrInfoType

from lamer.actors.generation import (
    BadAnswer,
    check_ids,
    check_response,
    decode_answer,
    encode_request,
    error_message,
    refusal,
)
from lamer.actors.policy import InferenceError, InferenceRefused, Request, retry_seed
from lamer.actors.resuming import LENGTH_ONLY, Endings, continuation, join, settle
from lamer.actors.routing import Affinity, Place, Router
from lamer.common.liveness.bounded import read_bounded
from lamer.common.messages import ServerInfo
from lamer.common.records import Completion, FinishReason

log = logging.getLogger("lamer.actor")

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which SGLang's HTTP server closes idle connections, so that none is closed while it is picked."""
VANISHED_SECONDS = 20
_PROBE_SECONDS = 5
"""After so much silence a connection is probed, and again that often."""
LONGEST_BACKOFF_SECONDS = 8.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MOST_RESUMPTIONS = 64
"""How often one response may be aborted and go on: more updates than happen in one, unless a server only aborts."""
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
        """Must be made inside a running event loop. vocab_size: prompts and answers with other ids are refused."""
        self.options = options
        self._vocab_size = vocab_size
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, socket_factory=_probed_socket)
        self._http = aiohttp.ClientSession(
            connector=connector,
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

    async def generate(self, server: ServerInfo, request: Request) -> Completion:
        """Send a request to a server, once. A response that the server aborted is given as far as it came.

        Raises:
            ServerUnavailable, BadAnswer: worth another try. ContextOverflow, InferenceRefused: not.
        """
        check_ids(request, self._vocab_size)
        body = encode_request(request, server.policy_version)
        try:
            async with self._http.post(server.url + "/generate", data=body, headers=_headers(server.api_key)) as answer:
                status, data = answer.status, await read_bounded(answer.content, MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise ServerUnavailable(f"no answer within {self.options.request_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ServerUnavailable(f"{type(error).__name__}: {error}") from error
        if data is None:
            raise BadAnswer(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        if status == 200:
            completion = decode_answer(data, request)
            check_response(completion, self._vocab_size)
            return completion
        if status in _KEY_STATUSES:
            raise InferenceRefused(f"the api key that the gateway gave us is refused ({status} {error_message(data)})")
        if status >= 500 or status in _BUSY_STATUSES:
            raise ServerUnavailable(f"status {status}: {error_message(data)}")
        raise refusal(status, data)


class RoutedPolicy:
    """The policy as one trial sees it: served by the servers that its affinity leads to."""

    def __init__(
        self,
        client: InferenceClient,
        router: Router,
        endings: Endings = LENGTH_ONLY,
        affinity: Affinity | None = None,
    ) -> None:
        self._client = client
        self._router = router
        self._endings = endings
        self._affinity = affinity or Affinity()

    async def complete(self, request: Request) -> Completion:
        """The response, after at most `InferenceOptions.retries` failed tries; every sending has its own seed.

        What an aborted response held is kept, and the rest asked for, of the same server if it has room.

        Raises:
            ContextOverflow: the prompt does not fit. InferenceRefused: a server refuses the request.
            InferenceError: no try gave a usable response; the message names the last server and its answer.
        """
        options = self._client.options
        partial: Completion | None = None
        failures = resumptions = 0
        while True:
            seed = retry_seed(request.seed, failures + resumptions)
            wanted = replace(request, seed=seed) if partial is None else continuation(request, partial, seed)
            try:
                answer = await self._try(wanted)
            except (ServerUnavailable, BadAnswer) as error:
                if failures == options.retries:
                    raise InferenceError(f"{failures + 1} tries failed, the last with {error}") from error
                log.info("try %d of %d failed: %s", failures + 1, options.retries + 1, error)
                await asyncio.sleep(_backoff(options.backoff_seconds, failures))
                failures += 1
                continue
            seam = 0 if partial is None else len(partial.ids)
            joined = settle(answer if partial is None else join(partial, answer), request, self._endings, seam)
            if joined.finish_reason is not FinishReason.ABORT:
                return joined
            if resumptions == MOST_RESUMPTIONS:
                raise InferenceError(f"aborted {resumptions + 1} times, the last time after {len(joined.ids)} tokens")
            partial, resumptions = joined, resumptions + 1

    async def _try(self, request: Request) -> Completion:
        """One sending, to a place that is given back; errors name the server."""
        place = await self._router.acquire(self._affinity)
        server = place.info
        has_failed = has_answered = False
        try:
            completion = await self._send(place, server, request)
            has_answered = True
        except InferenceError as error:
            has_failed = isinstance(error, ServerUnavailable)
            raise type(error)(f"server {server.name} at {server.url}: {error}") from error
        finally:
            self._affinity.avoided = place if has_failed else None
            self._router.release(place, has_failed=has_failed, has_answered=has_answered)
        return completion

    async def _send(self, place: Place, server: ServerInfo, request: Request) -> Completion:
        try:
            async with place.sending():
                completion = await self._client.generate(server, request)
        except TimeoutError as error:
            raise ServerUnavailable("it is gone from the learner's list of servers") from error
        wanted = self._affinity.version
        if wanted is not None and any(span.version != wanted for span in completion.versions):
            raise BadAnswer(f"it answered with versions {completion.versions}, version {wanted} was asked for")
        return completion


def _backoff(first: float, retry: int) -> float:
    """Doubling, with jitter of half to one and a half, so that trials that failed together do not return together."""
    return min(LONGEST_BACKOFF_SECONDS, first * 2.0**retry) * random.uniform(0.5, 1.5)


@functools.lru_cache(maxsize=256)
def _headers(api_key: str) -> Mapping[str, str]:
    """Headers of a request; a server without keys gets none."""
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"Content-Type": "application/json", **key}


def _probed_socket(address: AddrInfoType) -> socket.socket:
    """A socket whose connection breaks `VANISHED_SECONDS` after the other side fell silent at the level of TCP."""
    made = socket.socket(*address[:3])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = VANISHED_SECONDS // _PROBE_SECONDS - 1
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_SECONDS),
        ("TCP_KEEPINTVL", _PROBE_SECONDS),
        ("TCP_KEEPCNT", probes),
        ("TCP_USER_TIMEOUT", VANISHED_SECONDS * 1000),
    ):
        if hasattr(socket, name):  # Linux has all of them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
