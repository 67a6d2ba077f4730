"""The gateway's side of the inference hosts: their reports, and what they ask for to come to new weights.

HostStatus                      to the weight server; actors hear of servers that came, went or changed version
ManifestRequest, ChunkRequest   answered by the weight stream (`learner.gateway.weights.serving`)
ModelFilesRequest               answered with the model folder's small files, for actors too
GroupJoin, GroupState           relayed to the trainer, and its GroupOffer, GroupUpdate, GroupOrder back to the host
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

from lamer.common.codec import CodecError, encode_message
from lamer.common.errors import LamerError
from lamer.common.liveness.guard import surviving
from lamer.common.messages import (
    AnyMessage,
    ChunkRequest,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupStage,
    GroupState,
    GroupUpdate,
    HostStatus,
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    Reject,
    Role,
)
from lamer.learner.gateway.peers import Link, Peer, PeerTable
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.gateway.weights.model_files import read_model_files
from lamer.learner.gateway.weights.serving import StreamServer

log = logging.getLogger("lamer.gateway")

MOST_QUESTIONS = 64
"""Of one peer that are being answered at a time; a host asks for eight chunks at once."""


class Hosts:
    """Belongs to the gateway's event loop. on_servers: called when actors must hear of a change."""

    def __init__(
        self,
        model_path: Path,
        weights: Announcer,
        stream: StreamServer,
        peers: PeerTable,
        link: Link,
        on_servers: Callable[[], None],
    ) -> None:
        self._model_path = model_path
        self._weights = weights
        self._stream = stream
        self._peers = peers
        self._link = link
        self._on_servers = on_servers
        self._loop = asyncio.get_running_loop()
        self._model_files: ModelFiles | None = None
        self._joins: dict[str, GroupJoin] = {}
        self._answering = asyncio.TaskGroup()
        self._open: Counter[str] = Counter()

    async def run(self) -> None:
        """Own what is answered in the background, until cancelled."""
        async with self._answering:
            await self._loop.create_future()

    def greet_trainer(self, trainer: Peer) -> None:
        """A trainer said Hello, and knows nothing yet of the hosts that wait for a broadcast."""
        for join in self._joins.values():
            self._link.send(trainer, join)

    def greet(self, host: Peer) -> None:
        """A host said Hello: name it the current weights, if there are any yet."""
        if self._weights.current is not None:
            self._link.send(host, self._weights.current)

    def report(self, host: Peer, status: HostStatus) -> None:
        """A host says how its server is."""
        if status.error:
            log.warning("inference host %s: %s", host.hello.name, status.error)
        if self._weights.report(host.key, status, self._loop.time()):
            self._on_servers()

    def lose(self, host: Peer) -> None:
        """A host left or died."""
        self._joins.pop(host.key, None)
        self._tell_trainer(GroupState(group="", stage=GroupStage.LEFT, host=host.key))
        if self._weights.remove(host.key):
            self._on_servers()

    def give_model_files(self, peer: Peer, request: ModelFilesRequest) -> None:
        """Send the small files of the run's model folder, which are read once, or those beside streamed weights."""
        self._answer(peer, request, self._send_model_files(peer, request.digest))

    def answer(self, host: Peer, message: ManifestRequest | ChunkRequest) -> None:
        """Answer a question about weights, in the background: a delta may have to be made first."""
        self._answer(host, message, self._send_weights(host, message))

    def relay_to_trainer(self, host: Peer, message: GroupJoin | GroupState) -> None:
        """Pass a host's message on under the key by which the trainer answers it."""
        if isinstance(message, GroupJoin):
            self._joins[host.key] = GroupJoin(message.backend, message.ranks, host.key)
            self._tell_trainer(self._joins[host.key])
        else:
            if message.stage is GroupStage.FAILED:
                self._joins.pop(host.key, None)
            state = GroupState(message.group, message.stage, message.version, message.reason, host.key)
            self._tell_trainer(state)

    def relay_to_host(self, message: GroupOffer | GroupUpdate | GroupOrder) -> None:
        """Pass a trainer's message on to the host that it names, if it is still there."""
        host = self._peers.get(message.host)
        if host is not None:
            self._link.send(host, message)

    async def close(self) -> None:
        """Remove what was kept for answers; after `run` has ended."""
        await self._stream.close()

    def _tell_trainer(self, message: GroupJoin | GroupState) -> None:
        for trainer in self._peers.of_role(Role.TRAINER):
            self._link.send(trainer, message)

    def _answer(self, peer: Peer, question: AnyMessage, answering: Coroutine[None, None, None]) -> None:
        """Answer in the background. A peer that has too many questions open asks this one again when it gets no answer.

        An answer that fails unforeseen is given up.
        """
        if self._open[peer.key] >= MOST_QUESTIONS:
            answering.close()
            log.warning("%s %s asks too much at once: no answer", peer.role.value, peer.hello.name)
            return

        async def answer() -> None:
            with surviving(log, question, f"{peer.role.value} {peer.hello.name}"):
                await answering

        self._open[peer.key] += 1
        self._answering.create_task(answer()).add_done_callback(lambda _: self._answered(peer.key))

    def _answered(self, key: str) -> None:
        self._open[key] -= 1
        if self._open[key] == 0:
            del self._open[key]

    async def _send_model_files(self, peer: Peer, digest: str) -> None:
        """An actor that can't be given them is sent away with the reason; a host asks again by itself."""
        beside = self._stream.model_files(digest)
        try:
            if beside is None and self._model_files is None:
                self._model_files = await asyncio.to_thread(read_model_files, self._model_path)
            files = beside or self._model_files
            assert files is not None
            encode_message(files)  # raises where they are too big to be sent
            self._link.send(peer, files)
        except (LamerError, OSError, CodecError) as error:  # it is gone, or too big to be sent
            reason = f"the files of the run's model in {self._model_path} can't be had: {error}"
            log.error("%s %s: %s", peer.role.value, peer.hello.name, reason)
            if peer.role is not Role.HOST:
                self._link.send(peer, Reject(reason))

    async def _send_weights(self, host: Peer, message: ManifestRequest | ChunkRequest) -> None:
        if isinstance(message, ManifestRequest):
            self._link.send(host, await self._stream.manifest(message))
        else:
            self._link.send(host, await self._stream.chunk(message))
