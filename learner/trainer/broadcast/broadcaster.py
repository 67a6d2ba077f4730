"""Weights by collective broadcast, the trainer's side: the one object that its process talks to.

    take      what hosts say, relayed by the gateway        update_group   who takes part, and what follows (no clock)
    offer     a version is on disk: offer it to the group   rank_zero      torch's process group, in a thread
    run       sends answers, and lets time go by

Training goes on meanwhile. Neither a slow nor a dead host is waited for by more than this object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.common.messages import AnyMessage, GroupAction, GroupJoin, GroupOrder, GroupState
from lamer.common.settings import InferenceSettings
from lamer.common.weights import WeightFile, identity_of
from lamer.learner.trainer.broadcast.group import Limits, Stage, Update, UpdateGroup
from lamer.learner.trainer.broadcast.rank_zero import (
    Outcomes,
    TorchRankZero,
    check_backend,
    plan_buckets,
)

log = logging.getLogger("lamer.trainer")

TICK_SECONDS = 0.1
CLOSE_SECONDS = 3.0


class Broadcaster:
    """Belongs to the trainer's event loop."""

    def __init__(
        self,
        settings: InferenceSettings,
        address: str,
        send: Callable[[AnyMessage], Awaitable[None]],
        limits: Limits | None = None,
    ) -> None:
        """address: where hosts reach this process's groups (`group_address`). send: to the gateway.

        Raises:
            BadInput: the run wants nccl, and there is no GPU here.
        """
        if settings.delivery == "nccl":
            check_backend("nccl")
        limits = limits or Limits()
        self._bucket_bytes = settings.bucket_bytes
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[AnyMessage] = asyncio.Queue()
        self._identity = ""
        outcomes = Outcomes(self._from_thread(self._opened), self._from_thread(self._sent))
        self._rank_zero = TorchRankZero(address, outcomes, limits.join, limits.send)
        self._group = UpdateGroup(self._rank_zero, self._outbox.put_nowait, limits)

    @property
    def applied(self) -> int:
        """The version that all members of the group took last, -1 before the first."""
        return self._group.applied

    @property
    def members(self) -> tuple[str, ...]:
        """Hosts that are in the group, in the gateway's words; none while a group is being formed."""
        return self._group.hosts if self._group.stage in (Stage.IDLE, Stage.ASKING, Stage.SENDING) else ()

    def take(self, message: GroupJoin | GroupState) -> None:
        """What a host says."""
        if isinstance(message, GroupState):
            self._group.heard(message, self._loop.time())
            return
        try:
            check_backend(message.backend)
        except BadInput as error:
            log.warning("%s can't be given weights by broadcast: %s", message.host, error)
            self._outbox.put_nowait(GroupOrder(message.host, "", GroupAction.LEAVE, reason=str(error)))
        else:
            self._group.join(message, self._loop.time())

    async def offer(self, version: int, folder: Path, files: Sequence[WeightFile]) -> None:
        """These weights are on disk. Nothing happens for weights that were the last ones published."""
        identity = identity_of(files)
        if identity == self._identity:
            return
        self._identity = identity
        names = tuple(file.name for file in files)
        try:
            buckets = await asyncio.to_thread(plan_buckets, folder, names, self._bucket_bytes)
        except BadInput as error:
            log.warning("policy version %d is not broadcast: %s", version, error)
            return
        self._group.publish(Update(version, identity, str(folder), names, buckets), self._loop.time())

    def reset(self) -> None:
        """The connection to the gateway is new: it tells again who wants to take part."""
        self._group.reset()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_sending())
            tasks.create_task(self._keep_ticking())

    async def close(self) -> None:
        """Let every member go."""
        self._rank_zero.close()
        await asyncio.to_thread(self._rank_zero.join, CLOSE_SECONDS)

    async def _keep_sending(self) -> None:
        while True:
            await self._send(await self._outbox.get())

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._group.tick(self._loop.time())

    def _opened(self, group: str, error: str) -> None:
        self._group.opened(group, error, self._loop.time())

    def _sent(self, group: str, error: str) -> None:
        self._group.sent(group, error, self._loop.time())

    def _from_thread(self, outcome: Callable[[str, str], None]) -> Callable[[str, str], None]:
        """`outcome`, called in the loop; a thread that ends after the loop has nobody to tell."""

        def call(group: str, error: str) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(outcome, group, error)

        return call
