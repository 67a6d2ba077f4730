"""Who may say what to a gateway: every role and every message, over real sockets with real keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from lamer.common.errors import BadInput
from lamer.common.liveness import line_budget
from lamer.common.messages import (
    MESSAGE_TYPES,
    PROTOCOL_VERSION,
    AnyMessage,
    BatchFailed,
    BatchRequest,
    Checkpointed,
    ChunkRequest,
    Goodbye,
    GroupAction,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupStage,
    GroupState,
    GroupUpdate,
    Heartbeat,
    Hello,
    HostStatus,
    ManifestRequest,
    ModelFilesRequest,
    Published,
    Role,
    ServerInfo,
    Shutdown,
    Status,
    StatusRequest,
    TrialDone,
    TrialFailed,
    UpdateReport,
    WeightManifest,
    Welcome,
)
from lamer.common.session import Session
from lamer.learner.gateway.checking.permissions import SENDERS
from tests.learner.scripted import FILES, TIMEOUT, Run, hello, make_run

ANYONE = tuple(Role)
MATRIX: dict[type[msgspec.Struct], tuple[Role, ...]] = {
    Hello: ANYONE,
    Heartbeat: ANYONE,
    Goodbye: ANYONE,
    TrialDone: (Role.ACTOR,),
    TrialFailed: (Role.ACTOR,),
    ModelFilesRequest: (Role.ACTOR, Role.HOST),
    HostStatus: (Role.HOST,),
    ManifestRequest: (Role.HOST,),
    ChunkRequest: (Role.HOST,),
    GroupJoin: (Role.HOST,),
    GroupState: (Role.HOST,),
    GroupOffer: (Role.TRAINER,),
    GroupUpdate: (Role.TRAINER,),
    GroupOrder: (Role.TRAINER,),
    BatchRequest: (Role.TRAINER,),
    BatchFailed: (Role.TRAINER,),
    Published: (Role.TRAINER,),
    UpdateReport: (Role.TRAINER,),
    Checkpointed: (Role.TRAINER,),
    StatusRequest: (Role.OBSERVER,),
}
"""Who does it; everybody else is refused, and everybody is for a message that is not here."""


def samples() -> Iterator[AnyMessage]:
    """One message of each kind that a peer may send, but for Hello and Goodbye, and one that none may."""
    yield from (Heartbeat(), TrialDone("t", b""), TrialFailed("t", "no"), ModelFilesRequest(), StatusRequest())
    yield HostStatus(ServerInfo("s", "http://127.0.0.1:1", "key", 0, 1), is_ready=False)
    yield from (ManifestRequest("i"), ChunkRequest("p", 0, 1), GroupJoin("gloo", 1), GroupState("g", GroupStage.LEFT))
    yield GroupOffer("h", "g", "gloo", "127.0.0.1", 1, 1, 2)
    yield from (GroupUpdate("h", "g", 1, "i", ()), GroupOrder("h", "g", GroupAction.GO))
    yield from (
        BatchRequest(0),
        BatchFailed(9, "nan"),
        Published(1, "weights/v1", FILES),
        UpdateReport(1, ()),
        Checkpointed(1, "c"),
    )
    yield Shutdown("by a peer", 0)


async def refused_to(run: Run, role: Role, caplog: pytest.LogCaptureFixture) -> set[str]:
    """The names of the messages that the gateway refused from a peer of this role. The last one of all always is."""
    async with run.session(role, f"a {role.value}", capacity=1) as session:
        for message in samples():
            await session.send(message)
        async with asyncio.timeout(TIMEOUT):
            while f"Shutdown from {role.value} a {role.value} refused" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    end = f" from {role.value} a {role.value} refused"
    return {record.message.removesuffix(end) for record in caplog.records if record.message.endswith(end)}


async def test_every_message_is_done_for_the_roles_whose_it_is_and_refused_to_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "lamer.gateway")
    monkeypatch.setattr(line_budget, "LINES", 1000)  # every refusal is looked for in the log
    run = make_run(tmp_path)
    sent = {type(message) for message in samples()}
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        for role in Role:
            caplog.clear()
            expected = {kind.__name__ for kind in sent if role not in MATRIX.get(kind, ())}
            assert (role, await refused_to(run, role, caplog)) == (role, expected)
        run.stop.set()
        assert (await gateway).policy_version == 1, "the trainer's Published was done"
    assert sent | {Hello, Goodbye} == MATRIX.keys() | {Shutdown}
    assert {kind: frozenset(roles) for kind, roles in MATRIX.items()} == SENDERS
    assert not [kind for kind in SENDERS if kind not in MESSAGE_TYPES]


def test_the_page_about_security_has_this_matrix() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text().split("| message |")[1].split("\n\n")[0]
    roles, _, *lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines())
    told = {
        (name, role): cell == "does"
        for names, *cells in lines
        for name in names.split(", ")
        for role, cell in zip(roles, cells, strict=True)
    }
    for kind, done_for in MATRIX.items():
        assert {role.value: role in done_for for role in Role} == {role: told[kind.__name__, role] for role in roles}


async def test_whoever_says_that_it_is_what_its_key_is_not_is_refused_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        url = await run.url()
        for own in Role:
            for claimed in Role:
                if own is claimed:
                    continue
                with pytest.raises(BadInput, match=r"says that it is an? ") as refused:
                    await Session.open(url, run.keys(own), hello(claimed, "liar", 1), TIMEOUT)
                assert f"but its key, {own.value}, is a" in str(refused.value)
                assert f"lamer keys create --role {claimed.value} NAME" in str(refused.value)
                assert "\n" not in str(refused.value)
        run.stop.set()


async def test_an_actors_key_can_neither_displace_the_trainer_nor_publish_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        gateway = tasks.create_task(run.gateway())
        async with run.session(Role.TRAINER) as trainer, run.session(Role.ACTOR, capacity=1) as actor:
            with pytest.raises(BadInput, match="says that it is a trainer"):
                await Session.open(await run.url(), run.keys(Role.ACTOR), hello(Role.TRAINER), TIMEOUT)
            await actor.send(Published(297, str(run.plan.run_dir / "zeros"), FILES))
            await trainer.send(Published(1, str(tmp_path / "elsewhere"), FILES))
            await trainer.send(Published(2, "../elsewhere", FILES))
            await trainer.send(Published(3, str(run.plan.run_dir / "weights" / "v3"), FILES))
            async with run.session(Role.OBSERVER) as observer:
                while (await observer.ask(StatusRequest(), Status)).policy_version == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert (await observer.ask(StatusRequest(), Status)).policy_version == 3
        run.stop.set()
        assert (await gateway).policy_version == 3


async def test_a_key_that_is_taken_off_the_list_is_cut_off_while_connected(tmp_path: Path) -> None:
    """Read again every second; the issue allows five."""
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as actor, run.session(Role.OBSERVER) as observer:
            (run.keys_folder / "allowed" / "actor.key").unlink()
            with pytest.raises(BadInput, match="its key, actor, is not allowed any more"):
                await drain(actor)
            assert (await observer.ask(StatusRequest(), Status)).actors == 0
        run.stop.set()


async def test_of_two_processes_of_one_name_the_later_one_stays_and_the_other_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        older = replace_instance(hello(Role.HOST, "gpu-1"), "older")
        first = await Session.open(await run.url(), run.keys(Role.HOST), older, TIMEOUT)
        async with run.session(Role.HOST, "gpu-1") as newer, run.session(Role.HOST, "gpu-2") as other:
            with pytest.raises(BadInput, match="another process called gpu-1 joined"):
                await drain(first)
            with pytest.raises(BadInput, match="another process called gpu-1 joined"):
                await Session.open(await run.url(), run.keys(Role.HOST), older, TIMEOUT)
            for session in (newer, other):
                await session.ask(ManifestRequest("none"), WeightManifest)
        await first.close("told to")
        run.stop.set()


async def test_a_connection_is_one_peer_however_many_processes_it_claims_to_be(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        async with run.session(Role.ACTOR, capacity=1) as actor, run.session(Role.OBSERVER) as observer:
            for number in range(50):
                await actor.send(replace_instance(hello(Role.ACTOR, f"actor {number}", 1), f"process {number}"))
            welcomed = 0
            while welcomed < 50:
                welcomed += isinstance(await actor.receive(), Welcome)
            assert (await observer.ask(StatusRequest(), Status)).actors == 1
        run.stop.set()


@pytest.mark.parametrize("spoken", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_the_version_before_and_the_one_after_are_named_in_the_refusal(tmp_path: Path, spoken: int) -> None:
    run = make_run(tmp_path)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        told = f"speaks protocol {PROTOCOL_VERSION}, actor speaks {spoken}: install the same version of lamer on both"
        with pytest.raises(BadInput, match=told):
            await Session.open(
                await run.url(), run.keys(Role.ACTOR), Hello(spoken, spoken, Role.ACTOR, "actor", capacity=1), TIMEOUT
            )
        both = Hello(PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, Role.OBSERVER, "both")
        session = await Session.open(await run.url(), run.keys(Role.OBSERVER), both, TIMEOUT)
        assert session.welcome.protocol == PROTOCOL_VERSION
        await session.close("enough")
        run.stop.set()


async def test_a_gateway_listens_at_an_ipv6_address(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    gateway = replace(run.plan.settings.gateway, bind="tcp://[::1]")
    run = make_run(tmp_path, gateway=gateway)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        tasks.create_task(run.gateway())
        assert (await run.url()).startswith("tcp://[::1]:")
        async with run.session(Role.OBSERVER) as observer:
            assert (await observer.ask(StatusRequest(), Status)).run == "test-1"
        run.stop.set()


async def drain(session: Session) -> None:
    """Receive until that raises."""
    while True:
        await session.receive()


def replace_instance(message: Hello, instance: str) -> Hello:
    return msgspec.structs.replace(message, instance=instance)
