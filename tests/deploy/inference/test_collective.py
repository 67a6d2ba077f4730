"""Weights by broadcast, the host's side, with a scripted trainer and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web

from lamer.common.errors import BadInput
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
)
from lamer.common.settings import InferenceSettings
from lamer.common.weights import Bucket, WeightFile
from lamer.deploy.inference.engines.client import ServerClient, ServerRefused
from lamer.deploy.inference.fetching.base import ServerStuck, Withdrawn
from lamer.deploy.inference.fetching.collective import CollectiveDelivery, CollectiveLimits, check_collective
from lamer.deploy.inference.fetching.interface import interface_towards

LIMITS = CollectiveLimits(probe=1.0, join=1.0, offer=0.3, go=5.0, bucket=0.5, rejoin=0.05, longest_rejoin=0.1)
BUCKETS = tuple(Bucket((name,), ("float32",), ((2,),)) for name in ("a", "b", "c"))
GROUP = "lamer-1"


def announcement(version: int) -> WeightAnnouncement:
    return WeightAnnouncement(version, "nowhere", (WeightFile("model.safetensors", 8, f"digest-{version}"),))


@dataclass
class ScriptedServer:
    """Notes what it is asked; `hangs` on one route, or `refuses` it, from the n-th request on."""

    asked: list[tuple[str, Any]] = field(default_factory=list)
    hangs: str = ""
    refuses: str = ""
    spares: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.json()))
        if request.path in (self.hangs, self.refuses):
            self.spares -= 1
            if self.spares < 0 and request.path == self.hangs:
                await asyncio.sleep(60.0)
            if self.spares < 0:
                return web.json_response({"success": False, "message": "no"}, status=400)
        return web.json_response({"success": True})

    async def describe(self, _: web.Request) -> web.Response:
        return web.json_response({"paths": {"/begin_weight_update": {}}})

    @property
    def routes(self) -> list[str]:
        """What was asked, without the slash."""
        return [route[1:] for route, _ in self.asked]


@dataclass
class Scene:
    """A delivery, its server, and what it says to the trainer."""

    server: ScriptedServer
    client: ServerClient
    port: int
    mail: asyncio.Queue[AnyMessage] = field(default_factory=asyncio.Queue)
    stuck: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.delivery = CollectiveDelivery("gloo", 2, self.mail.put, LIMITS)

    async def said(self) -> AnyMessage:
        async with asyncio.timeout(5.0):
            return await self.mail.get()

    async def state(self) -> tuple[GroupStage, int]:
        message = await self.said()
        assert isinstance(message, GroupState), message
        return message.stage, message.version

    def offer(self, group: str = GROUP, port: int | None = None) -> None:
        self.delivery.take(GroupOffer("h", group, "gloo", "127.0.0.1", port or self.port, 1, 3))

    def update(self, version: int) -> None:
        self.delivery.take(GroupUpdate("h", GROUP, version, announcement(version).identity, BUCKETS))

    def order(self, action: GroupAction, version: int) -> None:
        self.delivery.take(GroupOrder("h", GROUP, action, version, "a reason"))

    async def join(self) -> None:
        self.delivery.attach(self.client, self.stuck.append)
        assert await self.said() == GroupJoin("gloo", 2)
        self.offer()
        assert await self.state() == (GroupStage.JOINED, -1)
        self.server.asked.clear()

    async def apply(self, version: int) -> None:
        """Until GO; then the rest."""
        applying = asyncio.create_task(self.delivery.apply(announcement(version), self.client, flush_cache=True))
        assert await self.state() == (GroupStage.READY, version)
        self.order(GroupAction.GO, version)
        await applying


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Also listens where members would meet the trainer."""
    server = ScriptedServer()
    app = web.Application()
    app.router.add_get("/openapi.json", server.describe)
    app.router.add_post("/{route}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    meeting = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    client = ServerClient(url, "api", "admin")
    made = Scene(server, client, meeting.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        with contextlib.suppress(TimeoutError):
            await made.delivery.close()
        await client.close()
        meeting.close()
        await runner.cleanup()


@pytest.mark.parametrize(
    ("change", "gpu", "says"),
    [
        ({"engine": "embedded"}, True, "embedded engine: use stream"),
        ({"delivery": "nccl"}, False, "needs a GPU"),
        ({"data_parallel": 2}, True, "inference.data_parallel is 2"),
    ],
)
def test_what_can_not_be_broadcast_to_is_refused_with_another_way(change: dict[str, Any], gpu: bool, says: str) -> None:
    inference = replace(InferenceSettings(engine="sglang", delivery="gloo"), **change)
    with pytest.raises(BadInput, match=says):
        check_collective(inference, has_gpu=gpu)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5555", "tcp://nowhere.invalid:5555"])
def test_gloo_chooses_where_to_listen_when_the_learner_is_here_or_unknown(url: str) -> None:
    assert interface_towards(url) == ""


def test_another_machine_is_met_by_an_interface_that_leads_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 5555))
        except OSError:
            pytest.skip("this machine has no network")
    found = interface_towards("tcp://192.0.2.1:5555")
    assert found in {name for _, name in socket.if_nameindex()} - {"lo"}


async def test_buckets_come_in_order_and_the_last_one_brings_the_version_and_the_flush(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    assert await scene.delivery.wants(announcement(7))
    await scene.apply(7)
    assert await scene.state() == (GroupStage.APPLIED, 7)
    assert scene.server.routes == ["begin_weight_update", *["update_weights_from_distributed"] * 3, "end_weight_update"]
    bodies = [body for route, body in scene.server.asked if route == "/update_weights_from_distributed"]
    assert [(body["names"], body["flush_cache"], body.get("weight_version")) for body in bodies] == [
        (["a"], False, None),
        (["b"], False, None),
        (["c"], True, "7"),
    ]


async def test_nothing_reaches_the_server_before_the_trainer_says_go(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    applying = asyncio.create_task(scene.delivery.apply(announcement(7), scene.client, flush_cache=True))
    assert await scene.state() == (GroupStage.READY, 7)
    scene.order(GroupAction.WITHDRAW, 7)
    with pytest.raises(Withdrawn, match="a reason"):
        await applying
    assert scene.server.asked == []
    assert not await scene.delivery.wants(announcement(7))


async def test_an_offer_that_comes_a_moment_after_the_announcement_is_waited_for(scene: Scene) -> None:
    await scene.join()
    wanting = asyncio.create_task(scene.delivery.wants(announcement(7)))
    await asyncio.sleep(0)
    scene.update(7)
    assert await wanting


async def test_weights_that_are_never_offered_come_as_a_folder_and_the_host_joins_again(scene: Scene) -> None:
    await scene.join()
    assert not await scene.delivery.wants(announcement(7))
    assert await scene.state() == (GroupStage.FAILED, -1)
    assert await scene.said() == GroupJoin("gloo", 2)


async def test_an_offer_of_older_weights_than_those_wanted_is_declined_at_once(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    wanting = asyncio.create_task(scene.delivery.wants(announcement(8)))
    assert await scene.state() == (GroupStage.DECLINED, 7)
    scene.update(8)
    assert await wanting


async def test_an_offer_that_nobody_takes_up_is_declined(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    assert await scene.state() == (GroupStage.DECLINED, 7)
    with pytest.raises(Withdrawn):
        await scene.delivery.apply(announcement(7), scene.client, flush_cache=True)


async def test_a_server_is_not_sent_where_nobody_answers(scene: Scene) -> None:
    scene.delivery.attach(scene.client, scene.stuck.append)
    assert await scene.said() == GroupJoin("gloo", 2)
    scene.offer(port=1)
    message = await scene.said()
    assert isinstance(message, GroupState)
    assert message.stage is GroupStage.FAILED
    assert "trainer.group_address" in message.reason
    assert "init_weights_update_group" not in scene.server.routes


async def test_a_server_that_hangs_on_its_way_into_a_group_is_reported(scene: Scene) -> None:
    scene.server.hangs = "/init_weights_update_group"
    scene.delivery.attach(scene.client, scene.stuck.append)
    assert await scene.said() == GroupJoin("gloo", 2)
    scene.offer()
    async with asyncio.timeout(5.0):
        while not scene.stuck:  # noqa: ASYNC110 - a callback of the delivery fills it
            await asyncio.sleep(0.02)
    assert "did not enter" in scene.stuck[0]


async def test_a_server_that_hangs_in_a_broadcast_has_to_be_started_anew(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    scene.server.hangs, scene.server.spares = "/update_weights_from_distributed", 1
    with pytest.raises(ServerStuck, match="policy version 7"):
        await scene.apply(7)
    assert await scene.state() == (GroupStage.FAILED, -1)


async def test_a_half_update_is_an_error_ends_its_session_and_the_host_joins_again(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    scene.server.refuses, scene.server.spares = "/update_weights_from_distributed", 1
    with pytest.raises(ServerRefused):
        await scene.apply(7)
    assert scene.server.routes[-1] == "end_weight_update"
    assert await scene.state() == (GroupStage.FAILED, -1)
    assert await scene.said() == GroupJoin("gloo", 2)


async def test_a_new_offer_replaces_the_group_before(scene: Scene) -> None:
    await scene.join()
    scene.offer("lamer-2")
    assert await scene.state() == (GroupStage.JOINED, -1)
    assert scene.server.asked[0] == ("/destroy_weights_update_group", {"group_name": GROUP})
    assert scene.server.asked[1][1]["group_name"] == "lamer-2"
    assert (scene.server.asked[1][1]["rank_offset"], scene.server.asked[1][1]["world_size"]) == (1, 3)


async def test_losing_the_server_during_an_update_withdraws_it_and_leaves_the_group(scene: Scene) -> None:
    await scene.join()
    scene.update(7)
    applying = asyncio.create_task(scene.delivery.apply(announcement(7), scene.client, flush_cache=True))
    assert await scene.state() == (GroupStage.READY, 7)
    scene.delivery.lose()
    with pytest.raises(Withdrawn):
        await applying
    message = await scene.said()
    assert message == GroupState("", GroupStage.FAILED, -1, "its server is gone")
    assert not await scene.delivery.wants(announcement(8))
