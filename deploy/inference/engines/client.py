"""The administrative side of SGLang's HTTP contract: readiness, load, and weight updates. Generation is
`actors.inference`.

Admin routes take the admin key, the others the api key, as a server with both keys demands.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from lamer.common.errors import MALFORMED, BadInput, LamerError, Missing
from lamer.common.liveness.bounded import read_bounded

log = logging.getLogger("lamer.host")

POLL_SECONDS = 0.2
REQUEST_SECONDS = 600.0
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_KEY_STATUSES = (401, 403)

AnswerT = TypeVar("AnswerT")


class ServerRefused(LamerError):
    """The server answered an administrative request with an error; the message quotes it."""

    exit_code = 1


class KeyRefused(ServerRefused):
    """The server does not take our key (401 or 403)."""


class ModelInfo(msgspec.Struct):
    """What `/model_info` says, as far as we read it. architectures: None where the engine does not say."""

    model_path: str = ""
    weight_version: str = ""
    architectures: tuple[str, ...] | None = None


class LoadFigures(msgspec.Struct):
    """Requests of one data-parallel rank in `/v1/loads`."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0


class Loads(msgspec.Struct):
    """What `/v1/loads` says, as far as we read it."""

    loads: tuple[LoadFigures, ...] = ()


class ServerRelease(msgspec.Struct):
    """What `/server_info` says, as far as we read it."""

    version: str = ""
    engine: str = ""
    max_running_requests: int | None = None


class Routes(msgspec.Struct):
    """What `/openapi.json` says, as far as we read it: the server's routes."""

    paths: dict[str, msgspec.Raw] = {}


class PauseBody(msgspec.Struct):
    """Body of `/pause_generation`."""

    mode: str


class EmptyBody(msgspec.Struct):
    """A body without fields, where the server wants JSON."""


class AbortBody(msgspec.Struct):
    """Body of `/abort_request`."""

    abort_all: bool = True


class LoadWeightsBody(msgspec.Struct):
    """Body of `/update_weights_from_disk`."""

    model_path: str
    weight_version: str
    flush_cache: bool
    abort_all_requests: bool = False


def trusting(certificate: Path) -> ssl.SSLContext:
    """A context that trusts this certificate file alone, under whatever name its server is reached: for a client on
    the server's own machine, or one that was given the certificate.

    Raises:
        BadInput: the file holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=certificate)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"--tls-cert {certificate} can't be read as a PEM certificate: {error}") from error
    return context


class ServerClient:
    """One inference server, seen by the host agent that owns it."""

    def __init__(self, url: str, api_key: str, admin_key: str, tls: ssl.SSLContext | None = None) -> None:
        """A key "": none is sent. tls: None for the system's certificates."""
        self.url = url
        self._user = _bearer(api_key)
        self._admin = {**_bearer(admin_key), "Content-Type": "application/json"}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls if tls is not None else True),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def wait_ready(self, seconds: float) -> None:
        """Wait until the server answers `/model_info`.

        Raises:
            Missing: it did not within `seconds`.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            try:
                await self.model_info()
            except (aiohttp.ClientConnectionError, TimeoutError, ServerRefused):
                await asyncio.sleep(POLL_SECONDS)
            else:
                return
        raise Missing(f"the inference server at {self.url} did not answer within {seconds:.0f} s")

    async def wait_healthy(self, seconds: float) -> None:
        """Wait until `/health` is 200, which SGLang answers once it has warmed up and generated a token.

        Raises:
            Missing: it was not within `seconds`.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            try:
                await self._get("/health")
            except ServerRefused:
                await asyncio.sleep(POLL_SECONDS)
            else:
                return
        raise Missing(f"the inference server at {self.url} did not generate a token within {seconds:.0f} s")

    async def server_info(self) -> ServerRelease:
        """The server's release."""
        return await self._ask("/server_info", ServerRelease)

    async def routes(self) -> frozenset[str]:
        """The server's routes, as its own description lists them."""
        return frozenset((await self._ask("/openapi.json", Routes)).paths)

    async def model_info(self) -> ModelInfo:
        """The model folder and weight version that the server holds."""
        return await self._ask("/model_info", ModelInfo)

    async def loads(self) -> LoadFigures:
        """Running and waiting requests, summed over ranks."""
        ranks = (await self._ask("/v1/loads", Loads)).loads
        return LoadFigures(sum(rank.num_running_reqs for rank in ranks), sum(rank.num_waiting_reqs for rank in ranks))

    async def pause(self, mode: str) -> None:
        """Hold generation: `in_place`, `retract` or `abort`."""
        await self.post("/pause_generation", PauseBody(mode))

    async def resume(self) -> None:
        """Let generation go on."""
        await self.post("/continue_generation", EmptyBody())

    async def drain(self) -> None:
        """Take SGLang's turn among weight updates, once all requests have ended, and change nothing: what closes a
        session that is not open is refused. New requests wait meanwhile.
        """
        try:
            await self.post("/end_weight_update", EmptyBody())
        except KeyRefused:
            raise
        except ServerRefused:
            return

    async def abort_all(self) -> None:
        """End every request, running or waiting; its client gets the tokens so far."""
        await self.post("/abort_request", AbortBody())

    async def load_weights(
        self, folder: str, weight_version: str, flush_cache: bool, abort_all_requests: bool = False
    ) -> None:
        """Load the weights in `folder` and label them; a failure leaves the old ones in place. Without a pause the
        server first waits for running requests to end, or, with `abort_all_requests`, ends them.

        Raises:
            ServerRefused: the folder can't be loaded.
        """
        body = LoadWeightsBody(folder, weight_version, flush_cache, abort_all_requests)
        await self.post("/update_weights_from_disk", body)

    async def _ask(self, route: str, kind: type[AnswerT]) -> AnswerT:
        data = await self._get(route)
        try:
            return msgspec.json.decode(data, type=kind)
        except MALFORMED as error:
            raise ServerRefused(f"{self.url}{route} answered what is no {kind.__name__}: {error}") from error

    async def _get(self, route: str) -> bytes:
        async with self._http.get(self.url + route, headers=self._user) as response:
            return await self._body(route, response)

    async def post(self, route: str, body: msgspec.Struct) -> None:
        """Ask an administrative route.

        Raises:
            ServerRefused: it did not answer 200.
        """
        data = msgspec.json.encode(body)
        async with self._http.post(self.url + route, data=data, headers=self._admin) as response:
            await self._body(route, response)

    async def _body(self, route: str, response: aiohttp.ClientResponse) -> bytes:
        data = await read_bounded(response.content, MAX_ANSWER_BYTES)
        if data is None:
            raise ServerRefused(f"{self.url}{route} answered more than {MAX_ANSWER_BYTES} bytes")
        if response.status in _KEY_STATUSES:
            raise KeyRefused(f"{self.url}{route} answered {response.status}: it does not take our key")
        if response.status != 200:
            raise ServerRefused(f"{self.url}{route} answered {response.status}: {data[:300].decode(errors='replace')}")
        return data


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
