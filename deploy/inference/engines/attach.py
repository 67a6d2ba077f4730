"""A server that somebody else started: checked, then kept at the run's policy version like one of ours.

We do not own its process. While it does not answer it gets no work; when it is back, maybe as another process, it is
checked again and loads the weights again. What its owner must have given it: an api key and an admin key, or neither.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import aiohttp

from lamer.common.errors import BadInput, LamerError, Missing
from lamer.common.weights import ModelFingerprint, read_fingerprint
from lamer.deploy.inference.engines import sglang
from lamer.deploy.inference.engines.base import Idling
from lamer.deploy.inference.engines.client import KeyRefused, ServerClient, ServerRefused, trusting
from lamer.deploy.inference.engines.options import HostOptions

log = logging.getLogger("lamer.host")

POLL_SECONDS = 0.5
MISSES = 2
"""Connections refused in a row after which a server is taken for gone."""
_EMBEDDED = "lamer-embedded"


class AttachedServer:
    """A server that answered when it was made, by `Attacher.open`."""

    is_loaded = False

    def __init__(
        self, client: ServerClient, release: sglang.Release | None, options: HostOptions, max_running: int
    ) -> None:
        """release: None for the embedded engine."""
        self.client = client
        self.url = options.public_url or options.attach
        self.api_key = options.server_keys.api
        self.max_running = max_running
        self._release = release

    def update_mode(self, wanted: str) -> str:
        """How a weight update may pause this server, when the run wants `wanted`."""
        return self._release.update_mode(wanted) if self._release is not None else wanted

    @property
    def idling(self) -> Idling:
        """How it is brought to have nothing in flight."""
        return self._release.idling if self._release is not None else Idling.ITSELF

    async def ended(self) -> str:
        """Wait until the server does not answer any more; what happens instead."""
        misses = 0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.client.model_info()
            except KeyRefused as error:
                return str(error)
            except (ServerRefused, TimeoutError):
                misses = 0
            except (aiohttp.ClientError, OSError) as error:
                misses += 1
                if misses >= MISSES:
                    return f"it does not answer any more: {error}"
            else:
                misses = 0

    async def stop(self) -> None:
        """Hang up; the server goes on."""
        await self.client.close()


class Attacher:
    """Finds the server at a URL, again and again."""

    is_owned = False

    def __init__(self, options: HostOptions, max_running: int) -> None:
        """max_running: of a server that does not say."""
        self._options = options
        self._max_running = max_running
        self._was_there = False

    async def fingerprint(self) -> ModelFingerprint | None:
        """Check the server; its model's fingerprint if that folder can be read here.

        Raises:
            Missing: nothing answers, a key is refused, or the server lacks what weight updates need.
        """
        client = self._client()
        try:
            await self._check(client)
            folder = Path((await client.model_info()).model_path)
        finally:
            await client.close()
        try:
            return await asyncio.to_thread(read_fingerprint, folder)
        except (LamerError, OSError):
            return None  # on another machine, or a name in a registry

    async def open(self, folder: Path, version: int) -> AttachedServer:
        """The server, once it answers: at once the first time, after waiting for it to come back later on.

        Raises:
            Missing: as `fingerprint` says. BadInput: it serves another architecture than the one in `folder`.
        """
        client = self._client()
        try:
            if self._was_there:
                await self._wait_back(client)
            release = await self._check(client)
            await self._compare(client, folder)
            most = (await client.server_info()).max_running_requests or self._max_running
        except BaseException:
            await client.close()
            raise
        self._was_there = True
        return AttachedServer(client, release, self._options, self._options.max_running or most)

    def _client(self) -> ServerClient:
        options = self._options
        tls: ssl.SSLContext | None = trusting(options.tls_cert) if options.tls_cert is not None else None
        keys = options.server_keys
        return ServerClient(options.attach, keys.api, keys.admin or keys.api, tls)

    async def _check(self, client: ServerClient) -> sglang.Release | None:
        """Also lets a server go on that an agent before us left paused."""
        try:
            await self._check_keys(client)
            info = await client.server_info()
            return None if info.engine == _EMBEDDED else await sglang.inspect(client)
        except ServerRefused as error:
            raise Missing(f"there is no SGLang at {client.url}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Missing(
                f"no inference server answers at {client.url}: {str(error) or type(error).__name__}"
            ) from error

    async def _check_keys(self, client: ServerClient) -> None:
        try:
            await client.model_info()
        except KeyRefused as error:
            raise Missing(_refused(client.url, "api key", "SGLANG_API_KEY", "--api-key-file")) from error
        try:
            await client.resume()
        except KeyRefused as error:
            raise Missing(_refused(client.url, "admin key", "SGLANG_ADMIN_KEY", "--admin-key-file")) from error

    async def _compare(self, client: ServerClient, folder: Path) -> None:
        served = (await client.model_info()).architectures
        ours = read_fingerprint(folder).architecture
        if served and ours not in served:
            raise BadInput(f"the server at {client.url} serves {', '.join(served)}, the run's model is {ours}")

    async def _wait_back(self, client: ServerClient) -> None:
        log.info("waiting for the server at %s to come back", client.url)
        while True:
            try:
                await client.model_info()
            except (ServerRefused, aiohttp.ClientError, OSError):
                await asyncio.sleep(POLL_SECONDS)
            else:
                return


def _refused(url: str, key: str, variable: str, flag: str) -> str:
    return f"the server at {url} refuses the {key} (401): name a file that holds it with {flag}, or set ${variable}"
