"""Weights by collective broadcast (gloo or nccl), from the trainer straight into a running SGLang.

    attach   GroupJoin -> GroupOffer -> the server enters the trainer's process group -> GroupState JOINED
    wants    whether the trainer offers these weights (GroupUpdate); waits a moment for it
    apply    READY -> GroupOrder GO -> bucket by bucket into the paused server -> APPLIED

The group is the trainer's to form, again and again, as hosts come and go (`learner.trainer.broadcast.group`). SGLang
waits without end for a group's other members, in the very loop in which it generates: so nothing is begun before the
trainer said GO, its port is tried before the server is sent there, and a server that does hang is started anew. What
goes wrong leaves the weights to come as a folder; the host joins again a little later. Whoever reaches the trainer's
port can take part: use this in networks whose machines trust each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from lamer.common.errors import BadInput, LamerError
from lamer.common.messages import (
    AnyMessage,
    GroupAction,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupStage,
    GroupState,
    GroupUpdate,
    WeightAnnouncement,
    Welcome,
)
from lamer.common.settings import InferenceSettings
from lamer.common.versions import to_weight_version
from lamer.deploy.inference.engines.client import ServerClient
from lamer.deploy.inference.fetching.base import DeliveryFailed, Mail, ServerStuck, Withdrawn
from lamer.deploy.inference.fetching.group_client import SERVER_ERRORS, GroupClient

log = logging.getLogger("lamer.host")

COLLECTIVES = ("gloo", "nccl")


@dataclass(frozen=True, slots=True)
class CollectiveLimits:
    """Seconds. probe: to reach the trainer's port. join: for the server to enter a group. offer: from an announcement
    to the trainer's offer, and for an offer to be taken up. go: from READY to GO. bucket: for the server to receive
    one. rejoin: before joining again, give or take a half, doubled up to longest_rejoin as long as no update comes.
    """

    probe: float = 5.0
    join: float = 120.0
    offer: float = 10.0
    go: float = 90.0
    bucket: float = 120.0
    rejoin: float = 2.0
    longest_rejoin: float = 300.0


def check_collective(inference: InferenceSettings, *, has_gpu: bool) -> None:
    """See that a server of this host can take part in a broadcast.

    Raises:
        BadInput: it can't.
    """
    delivery, instead = inference.delivery, "use stream, or path with a shared disk"
    if inference.engine != "sglang":
        raise BadInput(f"delivery {delivery} needs SGLang, not the {inference.engine} engine: {instead}")
    if delivery == "nccl" and not has_gpu:
        raise BadInput(f"delivery nccl needs a GPU, and this machine has none: use gloo, or {instead}")
    if inference.data_parallel > 1:
        raise BadInput(
            f"SGLang takes no broadcast with data parallelism (inference.data_parallel is {inference.data_parallel}): "
            f"start a host for each replica, or {instead}"
        )


class CollectiveDelivery:
    """A `LiveDelivery`. ranks: processes of the server that hold weights, its tensor parallelism."""

    def __init__(self, backend: str, ranks: int, mail: Mail, limits: CollectiveLimits | None = None) -> None:
        self._backend = backend
        self._ranks = ranks
        self._mail = mail
        self._limits = limits or CollectiveLimits()
        self._clock = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._busy = asyncio.Lock()
        self._member: GroupClient | None = None
        self._on_stuck: Callable[[str], None] = log.error
        self._group = ""
        self._offer: GroupOffer | None = None
        self._update: GroupUpdate | None = None
        self._order: GroupOrder | None = None
        self._gone = ""
        self._is_out = False
        self._is_applying = False
        self._pause = self._limits.rejoin
        self._joining: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the interface -----------------------------------------------------------------------------------------

    def attach(self, client: ServerClient, on_stuck: Callable[[str], None]) -> None:
        """The server is up: join, and stay in whatever group the trainer forms, in the background."""
        self.lose()
        self._on_stuck = on_stuck
        self._member = GroupClient(client)
        self._joining = asyncio.create_task(self._stay_joined(self._member), name="weight-update group")
        self._joining.add_done_callback(self._ended)

    async def wants(self, announcement: WeightAnnouncement) -> bool:
        """Whether the trainer offers these weights, which takes it a moment; False at once outside of a group."""
        until = self._clock() + self._limits.offer
        while self._member is not None and not self._is_out and self._clock() < until:
            update = self._update
            if self._gone == announcement.identity:
                return False
            if update is not None and update.identity == announcement.identity:
                return True
            if self._is_applying:
                until = self._clock() + self._limits.offer
            elif update is not None and update.version < announcement.version:
                self._decline(update, f"policy version {announcement.version} is wanted")
            await self._until_changed(until)
        if self._member is not None and not self._is_out and not self._busy.locked():
            self._leave(self._group, "the trainer made no offer")
        return False

    async def apply(self, announcement: WeightAnnouncement, client: ServerClient, flush_cache: bool) -> None:
        """Take part in the broadcast that `wants` found.

        Raises:
            Withdrawn: the trainer gave it up before it began. ServerRefused, OSError, ClientError: the server may hold
            a part. ServerStuck: it hangs.
        """
        update, member = self._update, self._member
        if update is None or member is None or update.identity != announcement.identity:
            raise Withdrawn(f"policy version {announcement.version} is no longer broadcast")
        self._is_applying, self._order = True, None
        try:
            await self._state(GroupStage.READY, update.group, update.version)
            await self._await_go(update)
            async with self._busy:
                await self._receive(member, update, flush_cache)
            await self._state(GroupStage.APPLIED, update.group, update.version)
            self._pause = self._limits.rejoin
        finally:
            if self._update is update:
                self._update = None
            self._is_applying = False
            self._changed.set()

    def take(self, message: AnyMessage) -> None:
        """An offer, an update or an order of the trainer; or Welcome, after which the trainer is asked again, since
        what it said meanwhile is lost.
        """
        match message:
            case GroupOffer():
                self._offer = message
            case GroupUpdate() if message.group == self._group:
                self._update = message
                self._start(self._decline_unwanted(message))
            case GroupOrder(action=GroupAction.LEAVE):
                self._offer = None
                self._be_out(message.reason)
            case GroupOrder():
                self._take_order(message)
            case Welcome():
                self._be_out("the connection to the learner is new")
        self._changed.set()

    def _take_order(self, order: GroupOrder) -> None:
        update = self._update
        if update is not None and order.version == update.version:
            self._order = order
            if order.action is GroupAction.WITHDRAW:
                self._update, self._gone = None, update.identity

    def lose(self) -> None:
        """The server is gone, and with it its place in the group."""
        if self._member is None:
            return
        self._member = None
        if self._joining is not None:
            self._joining.cancel()
        self._forget()
        self._offer = None
        self._start(self._state(GroupStage.FAILED, "", reason="its server is gone"))
        self._changed.set()

    async def close(self) -> None:
        """Leave the group."""
        member, group = self._member, self._group
        self.lose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.probe):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                if member is not None and group:
                    await member.leave(group)

    # --- membership --------------------------------------------------------------------------------------------

    async def _stay_joined(self, server: GroupClient) -> None:
        entered = ""
        await self._mail(GroupJoin(self._backend, self._ranks))
        while True:
            while self._offer is None and not self._is_out:
                await self._until_changed(None)
            if self._offer is None:
                await self._join_again()
                continue
            async with self._busy:
                if entered:
                    await server.leave(entered)
                entered = await self._enter(server)

    async def _join_again(self) -> None:
        """After a pause that grows as long as nothing comes of it; an offer meanwhile makes it unnecessary."""
        until = self._clock() + self._pause * random.uniform(0.5, 1.5)
        self._pause = min(2 * self._pause, self._limits.longest_rejoin)
        while self._offer is None and self._clock() < until:
            await self._until_changed(until)
        if self._offer is None:
            self._is_out = False
            await self._mail(GroupJoin(self._backend, self._ranks))

    async def _enter(self, server: GroupClient) -> str:
        """Send the server into the group of the newest offer; its name if the server is in, else ""."""
        offer, self._offer = self._offer, None
        if offer is None:
            return ""
        self._forget()
        try:
            await self._probe(offer.master_address, offer.master_port)
            await server.enter(offer, self._limits.join)
        except TimeoutError:
            self._on_stuck(f"the server did not enter a weight-update group within {self._limits.join:.0f} s")
        except (*SERVER_ERRORS, DeliveryFailed) as error:
            if self._offer is None:  # otherwise the trainer gave this group up for another
                self._leave(offer.group, str(error))
        else:
            self._group = offer.group
            await self._state(GroupStage.JOINED, offer.group)
        return self._group

    async def _probe(self, host: str, port: int) -> None:
        """See that the trainer can be reached: a server that is sent where nobody answers hangs for half an hour."""
        try:
            async with asyncio.timeout(self._limits.probe):
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            reason = str(error) or f"no answer within {self._limits.probe:.0f} s"
            raise DeliveryFailed(
                f"the trainer's port {host}:{port} can't be reached ({reason}): set trainer.group_address to an "
                "address of the trainer's machine that this one reaches"
            ) from error
        writer.close()

    # --- an update ---------------------------------------------------------------------------------------------

    async def _await_go(self, update: GroupUpdate) -> None:
        """Wait for the trainer's GO.

        Raises:
            Withdrawn: it won't come.
        """
        until = self._clock() + self._limits.go
        while self._order is None and self._group == update.group and self._clock() < until:
            await self._until_changed(until)
        order = self._order
        if order is not None and order.action is GroupAction.GO:
            return
        if order is None and self._group == update.group:
            self._leave(update.group, f"the trainer did not begin within {self._limits.go:.0f} s")
        why = order.reason if order is not None else "the group is no more"
        raise Withdrawn(f"policy version {update.version} is not broadcast: {why}")

    async def _receive(self, server: GroupClient, update: GroupUpdate, flush_cache: bool) -> None:
        label = to_weight_version(update.version)
        try:
            await server.receive(
                update.buckets, update.group, label, flush_cache=flush_cache, seconds=self._limits.bucket
            )
        except TimeoutError as error:
            self._leave(update.group, "its server hangs in the broadcast")
            raise ServerStuck(
                f"the server did not receive a bucket of policy version {update.version} within "
                f"{self._limits.bucket:.0f} s: the trainer or another host died in the broadcast"
            ) from error
        except SERVER_ERRORS as error:
            self._leave(update.group, str(error))
            raise

    async def _decline_unwanted(self, update: GroupUpdate) -> None:
        """An offer that nobody takes up holds up the others."""
        await asyncio.sleep(self._limits.offer)
        if self._update is update and not self._is_applying:
            self._decline(update, "it has other weights to load")

    def _decline(self, update: GroupUpdate, reason: str) -> None:
        self._update, self._gone = None, update.identity
        self._start(self._state(GroupStage.DECLINED, update.group, update.version, reason))

    # --- small things ------------------------------------------------------------------------------------------

    def _leave(self, group: str, reason: str) -> None:
        """Tell the trainer that we are out, and join again later."""
        self._start(self._state(GroupStage.FAILED, group, reason=reason))
        self._be_out(reason)

    def _be_out(self, reason: str) -> None:
        log.warning("out of the weight-update group: %s", reason)
        self._forget()
        self._is_out = True
        self._changed.set()

    def _forget(self) -> None:
        self._group, self._update, self._order, self._is_out = "", None, None, False

    async def _state(self, stage: GroupStage, group: str, version: int = -1, reason: str = "") -> None:
        await self._mail(GroupState(group, stage, version, reason))

    async def _until_changed(self, until: float | None) -> None:
        """Until a message came or something here changed, or the time is there."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """In the background; see `_ended`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, LamerError):  # of the connection, which ends the host by itself, with this reason
            log.warning("a message to the trainer was not sent: %s", failure)
        elif failure is not None:
            log.error("weights by broadcast", exc_info=failure)
            self._on_stuck(f"its place in the weight-update group is lost: {failure!r}")
