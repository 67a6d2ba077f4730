"""A gateway that does what a test tells it, on the run's real sockets: CURVE, MessagePack, Hello and Welcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

from lamer.common.codec import decode_message, encode_message
from lamer.common.config import to_json
from lamer.common.keys import AllowList, create_keys, load_client_keys, load_server_keys
from lamer.common.messages import AnyMessage, Heartbeat, Hello, Reject, Role, Welcome
from lamer.common.settings import Settings
from lamer.common.transport import RouterEndpoint
from lamer.common.weights import ModelFingerprint
from lamer.learner.gateway.peers import Expectation

MessageT = TypeVar("MessageT")


class ScriptedGateway:
    """Welcomes whoever says Hello; everything else that arrives lies in `inbox`."""

    def __init__(
        self, endpoint: RouterEndpoint, allowed: AllowList, keys_folder: Path, model_path: Path, settings: Settings
    ) -> None:
        self.endpoint = endpoint
        self.allowed = allowed
        self.keys = load_client_keys(keys_folder, Role.ACTOR)
        self.host_keys = load_client_keys(keys_folder, Role.HOST)
        self.url = endpoint.url
        self.model_path = model_path
        self.settings = settings
        self.run = "run"
        self.epoch = 1
        self.credit_trials = 1000
        self.fingerprint: ModelFingerprint | None = None
        self.expectation = Expectation(self.run, "hash", None)
        self.inbox: asyncio.Queue[AnyMessage] = asyncio.Queue()
        self.hellos: list[Hello] = []
        self.greeted = asyncio.Event()
        self._identity = b""

    def welcome(self) -> Welcome:
        return Welcome(
            protocol=1,
            epoch=self.epoch,
            run=self.run,
            config=to_json(self.settings),
            config_hash="hash",
            policy_version=0,
            model_path=str(self.model_path),
            credit_trials=self.credit_trials,
            credit_bytes=1_000_000,
            heartbeat_seconds=0.1,
            dead_after_seconds=2.0,
            fingerprint=self.fingerprint,
        )

    def send(self, message: AnyMessage) -> None:
        """Send to the actor that said Hello last."""
        assert self.endpoint.send(self._identity, encode_message(message))

    async def next(self, kind: type[MessageT], seconds: float = 10.0) -> MessageT:
        """The next message, which must be of this kind."""
        message = await asyncio.wait_for(self.inbox.get(), seconds)
        assert isinstance(message, kind), message
        return message

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.endpoint.serve(lambda reason: None))
            tasks.create_task(self._read())

    async def _read(self) -> None:
        while True:
            received = await self.endpoint.receive()
            identity, message = received.identity, decode_message(received.data)
            client = self.allowed.find(received.key)
            assert client is not None
            if isinstance(message, Hello):
                self._identity = identity
                self.hellos.append(message)
                refusal = self.expectation.refusal(message, client)
                self.send(Reject(refusal) if refusal else self.welcome())
                self.greeted.set()
            elif isinstance(message, Heartbeat):
                self.endpoint.send(identity, encode_message(Heartbeat()))
            else:
                self.inbox.put_nowait(message)


@contextlib.asynccontextmanager
async def scripted_gateway(folder: Path, model_path: Path, settings: Settings) -> AsyncIterator[ScriptedGateway]:
    """A gateway on a free port of this machine, with keys in `folder`."""
    create_keys(folder)
    server_keys = load_server_keys(folder)
    allowed = server_keys.allow_list()
    endpoint = RouterEndpoint("tcp://127.0.0.1", 0, server_keys.pair, allowed.admits)
    gateway = ScriptedGateway(endpoint, allowed, folder, model_path, settings)
    serving = asyncio.create_task(gateway.serve())
    try:
        yield gateway
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        endpoint.close()
