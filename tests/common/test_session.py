"""Sessions against a scripted gateway on a real socket: reconnection, refusals, sizes and silence."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lamer.common import session as session_module
from lamer.common.codec import MAX_MESSAGE_BYTES, CodecError, decode_message, encode_message
from lamer.common.errors import BadInput, Missing
from lamer.common.keys import ClientKeys, create_keys, load_client_keys, load_server_keys
from lamer.common.messages import (
    PROTOCOL_VERSION,
    Ack,
    AnyMessage,
    Goodbye,
    Heartbeat,
    Hello,
    ModelFiles,
    ModelFilesRequest,
    Reject,
    Role,
    Shutdown,
    StatusRequest,
    TrialDone,
    Welcome,
)
from lamer.common.session import OUTBOX_MESSAGES, Session
from lamer.common.transport import DealerEndpoint, RouterEndpoint

HELLO = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, Role.ACTOR, "actor", capacity=2)
TIMEOUT = 10.0
LONG = 100.0
"""Silence after which nobody is taken for dead in a test that is about something else, however slow the machine."""


class ScriptedGateway:
    """Welcomes everyone and beats as long as it is not mute; keeps what it hears, heartbeats left out."""

    def __init__(self, keys_folder: Path, port: int = 0, answer: AnyMessage | None = None) -> None:
        keys = load_server_keys(keys_folder)
        self.router = RouterEndpoint("tcp://127.0.0.1", port, keys.pair, keys.allow_list().admits)
        self.answer = answer
        self.is_mute = False
        self.heard: list[AnyMessage] = []
        self.identities: list[bytes] = []
        self.beats = 0
        self.refused: list[str] = []

    @property
    def port(self) -> int:
        return int(self.router.url.rsplit(":", 1)[1])

    def hellos(self) -> list[Hello]:
        return [message for message in self.heard if isinstance(message, Hello)]

    async def _listen(self) -> None:
        while True:
            received = await self.router.receive()
            identity, message = received.identity, decode_message(received.data)
            if isinstance(message, Heartbeat):
                self.beats += 1
            else:
                self.heard.append(message)
            if isinstance(message, Hello):
                self.identities.append(identity)
            if not self.is_mute:
                reply = (self.answer or welcome()) if isinstance(message, Hello) else Heartbeat()
                self.router.send(identity, encode_message(reply))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedGateway]:
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self.router.serve(self.refused.append))]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.router.close()


def welcome(epoch: int = 1, dead_after: float = 0.4) -> Welcome:
    return Welcome(PROTOCOL_VERSION, epoch, "run-1", "{}", "hash", 0, "model", 2, 1 << 20, 0.05, dead_after)


@pytest.fixture
def keys_folder(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def keys(keys_folder: Path) -> ClientKeys:
    return load_client_keys(keys_folder, Role.ACTOR)


async def until(gateway: ScriptedGateway, count: int) -> None:
    """Wait until the gateway has heard `count` messages."""
    async with asyncio.timeout(TIMEOUT):
        while len(gateway.heard) < count:  # noqa: ASYNC110 - the scripted gateway has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_session_says_hello_beats_sends_and_says_goodbye(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        assert session.welcome == welcome()
        await session.send(StatusRequest())
        await until(gateway, 2)
        await session.close("enough")
        await until(gateway, 3)
        assert gateway.heard[1:] == [StatusRequest(), Goodbye("enough")]
        assert gateway.hellos()[0].instance != ""
        assert gateway.beats > 0


async def test_messages_are_received_in_order_and_heartbeats_are_not(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        for number in range(3):
            gateway.router.send(gateway.identities[0], encode_message(Heartbeat()))
            gateway.router.send(gateway.identities[0], encode_message(Ack((str(number),))))
        assert [await session.receive() for _ in range(3)] == [Ack(("0",)), Ack(("1",)), Ack(("2",))]
        await session.close("enough")


async def test_bytes_that_are_no_message_are_ignored(
    keys_folder: Path, keys: ClientKeys, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        for data in (b"", b"\x93garbage", b"\x81\xa1a" * 5000, encode_message(Ack(("1",)))):
            gateway.router.send(gateway.identities[0], data)
        assert await asyncio.wait_for(session.receive(), TIMEOUT) == Ack(("1",))
        await session.close("enough")
    assert caplog.text.count("a malformed message of the learner") == 3


async def test_a_gateway_that_answers_hello_with_garbage_is_missing(keys_folder: Path, keys: ClientKeys) -> None:
    server = load_server_keys(keys_folder)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits)
    serving = asyncio.create_task(router.serve(lambda _: None))
    opening = asyncio.create_task(Session.open(router.url, keys, HELLO, TIMEOUT))
    received = await asyncio.wait_for(router.receive(), TIMEOUT)
    router.send(received.identity, b"\x81\xa1a" * 5000)
    with pytest.raises(Missing, match="answered Hello with what is no message"):
        await opening
    serving.cancel()
    router.close()


async def test_what_nobody_receives_is_bounded_and_takes_nobody_for_dead(
    keys_folder: Path, keys: ClientKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer.common.session.INBOX_MESSAGES", 3)
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        for number in range(20):
            gateway.router.send(gateway.identities[0], encode_message(Ack((str(number),))))
        await asyncio.sleep(3 * session.welcome.dead_after_seconds)
        assert len(session._inbox._waiting) == 3
        assert [await session.receive() for _ in range(20)] == [Ack((str(number),)) for number in range(20)]
        assert len(gateway.hellos()) == 1
        await session.close("enough")


async def test_a_question_is_given_up_when_everything_but_an_answer_comes(
    keys_folder: Path, keys: ClientKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer.common.session.INBOX_MESSAGES", 3)
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        asking = asyncio.create_task(session.ask(ModelFilesRequest(), ModelFiles))
        await until(gateway, 2)
        for number in range(20):
            gateway.router.send(gateway.identities[0], encode_message(Ack((str(number),))))
        with pytest.raises(Missing, match="sent 3 messages and no answer"):
            await asking
        await session.close("enough")


async def test_a_question_is_answered_and_what_came_before_the_answer_is_kept(
    keys_folder: Path, keys: ClientKeys
) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        asking = asyncio.create_task(session.ask(ModelFilesRequest(), ModelFiles))
        await until(gateway, 2)
        for answer in (Ack(("0",)), Ack(("1",)), ModelFiles(()), Ack(("2",))):
            gateway.router.send(gateway.identities[0], encode_message(answer))
        assert await asyncio.wait_for(asking, TIMEOUT) == ModelFiles(())
        assert [await session.receive() for _ in range(3)] == [Ack(("0",)), Ack(("1",)), Ack(("2",))]
        await session.close("enough")


async def away(caplog: pytest.LogCaptureFixture) -> None:
    """Wait until a session has noticed that its connection broke: what is sent from then on is not lost."""
    async with asyncio.timeout(TIMEOUT):
        while not re.search(r"the connection to the learner at \S+ broke", caplog.text):  # noqa: ASYNC110 - a log line
            await asyncio.sleep(0.01)


async def test_a_question_is_asked_again_of_a_restarted_gateway(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder, answer=welcome(dead_after=LONG)).running() as first:
        session = await Session.open(first.router.url, keys, HELLO, TIMEOUT)
        asking = asyncio.create_task(session.ask(ModelFilesRequest(), ModelFiles))
        await until(first, 2)
        port = first.port
    async with ScriptedGateway(keys_folder, port, answer=welcome(epoch=2, dead_after=LONG)).running() as second:
        await until(second, 2)
        second.router.send(second.identities[0], encode_message(ModelFiles(())))
        assert await asyncio.wait_for(asking, TIMEOUT) == ModelFiles(())
        assert await asyncio.wait_for(session.receive(), TIMEOUT) == welcome(epoch=2, dead_after=LONG)
        await session.close("enough")


async def test_a_question_that_is_never_answered_is_missing(keys_folder: Path, keys: ClientKeys) -> None:
    """The gateway is there, and beats, but its answer never comes."""
    async with ScriptedGateway(keys_folder, answer=welcome(dead_after=0.1)).running() as gateway:
        beating = asyncio.create_task(beat(gateway))
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        with pytest.raises(Missing, match=r"did not answer our ModelFilesRequest within 1 s"):
            await asyncio.wait_for(session.ask(ModelFilesRequest(), ModelFiles), TIMEOUT)
        await session.close("enough")
        beating.cancel()


async def test_nobody_listening_is_missing_within_the_timeout(keys: ClientKeys) -> None:
    with pytest.raises(Missing, match=r"can't reach the learner at tcp://127.0.0.1:1 within 0.3 s"):
        await Session.open("tcp://127.0.0.1:1", keys, HELLO, 0.3)


async def test_an_address_that_is_none_is_bad_input(keys: ClientKeys) -> None:
    with pytest.raises(BadInput, match="is no address"):
        await Session.open("learner:5555", keys, HELLO, 0.3)


async def test_a_gateway_that_never_answers_is_missing(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        gateway.is_mute = True
        with pytest.raises(Missing, match="did not answer"):
            await Session.open(gateway.router.url, keys, HELLO, 0.3)


async def test_a_learner_that_is_there_and_busy_is_waited_for_with_a_line_now_and_then(
    keys_folder: Path, keys: ClientKeys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_module, "WAITING_NOTE_SECONDS", 0.1)
    async with ScriptedGateway(keys_folder).running() as gateway:
        gateway.is_mute = True
        opening = asyncio.create_task(Session.open(gateway.router.url, keys, HELLO, 0.3, busy=TIMEOUT))
        async with asyncio.timeout(TIMEOUT):
            while "has not answered for 0.5 s: it is busy, we wait" not in caplog.text:  # noqa: ASYNC110 - a log line
                await asyncio.sleep(0.01)
        gateway.is_mute = False
        gateway.router.send(gateway.identities[0], encode_message(welcome(dead_after=LONG)))
        await (await opening).close("enough")
        assert len(gateway.hellos()) == 1


async def test_only_a_learner_that_is_there_is_waited_for_longer(keys_folder: Path, keys: ClientKeys) -> None:
    with pytest.raises(Missing, match=r"within 0\.3 s: .* nothing listens at port 1"):
        await asyncio.wait_for(Session.open("tcp://127.0.0.1:1", keys, HELLO, 0.3, busy=600.0), TIMEOUT)
    async with ScriptedGateway(keys_folder).running() as gateway:
        gateway.is_mute = True
        opening = asyncio.create_task(Session.open(gateway.router.url, keys, HELLO, TIMEOUT, busy=600.0))
        await until(gateway, 1)
    with pytest.raises(Missing, match="broke before it answered"):
        await asyncio.wait_for(opening, TIMEOUT)


async def test_a_wrong_key_at_either_end_is_named(keys_folder: Path, keys: ClientKeys, tmp_path: Path) -> None:
    create_keys(tmp_path / "other")
    other = load_client_keys(tmp_path / "other", Role.ACTOR)
    async with ScriptedGateway(keys_folder).running() as gateway:
        with pytest.raises(Missing, match=r"wrong CURVE key.*does not allow"):
            await Session.open(gateway.router.url, ClientKeys(other.pair, keys.server_public), HELLO, TIMEOUT)
        with pytest.raises(Missing, match=r"wrong CURVE key.*server\.key"):
            await Session.open(gateway.router.url, ClientKeys(keys.pair, other.server_public), HELLO, TIMEOUT)
        assert "key not in allowed/" in gateway.refused
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        await session.close("the right key works")


async def test_a_reject_is_bad_input_with_the_gateways_reason(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder, answer=Reject("wrong run")).running() as gateway:
        with pytest.raises(BadInput, match="wrong run"):
            await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)


async def test_a_restarted_gateway_is_found_again_by_the_same_instance(
    keys_folder: Path, keys: ClientKeys, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedGateway(keys_folder, answer=welcome(dead_after=LONG)).running() as first:
        session = await Session.open(first.router.url, keys, HELLO, TIMEOUT)
        port = first.port
    await away(caplog)
    await session.send(StatusRequest())
    async with ScriptedGateway(keys_folder, port, answer=welcome(epoch=2, dead_after=LONG)).running() as second:
        assert await asyncio.wait_for(session.receive(), TIMEOUT) == welcome(epoch=2, dead_after=LONG)
        assert session.welcome.epoch == 2
        await until(second, 2)
        assert second.heard[1] == StatusRequest(), "what was sent while it was away arrives"
        assert second.hellos()[0].instance == first.hellos()[0].instance
        await session.close("enough")


async def test_silence_makes_a_session_connect_anew(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        gateway.is_mute = True
        await until(gateway, 2)
        gateway.is_mute = False
        assert len(gateway.hellos()) == 2
        gateway.router.send(gateway.identities[1], encode_message(welcome()))
        assert isinstance(await asyncio.wait_for(session.receive(), TIMEOUT), Welcome)
        await session.close("enough")


async def beat(gateway: ScriptedGateway) -> None:
    """Say Heartbeat to everyone, whether or not the gateway listens."""
    while True:
        for identity in gateway.identities:
            gateway.router.send(identity, encode_message(Heartbeat()))
        await asyncio.sleep(0.02)


async def test_a_session_whose_own_loop_was_blocked_does_not_take_the_gateway_for_dead(
    keys_folder: Path, keys: ClientKeys
) -> None:
    """The gateway lives in a thread of its own, and goes on beating meanwhile."""
    made: list[ScriptedGateway] = []
    has_begun, may_end = threading.Event(), threading.Event()

    async def be_a_gateway() -> None:
        async with ScriptedGateway(keys_folder).running() as gateway:
            made.append(gateway)
            beating = asyncio.create_task(beat(gateway))
            has_begun.set()
            await asyncio.to_thread(may_end.wait)
            beating.cancel()

    thread = threading.Thread(target=asyncio.run, args=(be_a_gateway(),))
    thread.start()
    try:
        assert await asyncio.to_thread(has_begun.wait, TIMEOUT)
        session = await Session.open(made[0].router.url, keys, HELLO, TIMEOUT)
        for _ in range(3):
            time.sleep(4 * session.welcome.dead_after_seconds)  # noqa: ASYNC251 - this is the block
            await asyncio.sleep(0.05)
        await asyncio.sleep(session.welcome.dead_after_seconds)
        assert len(made[0].hellos()) == 1
        await session.close("enough")
    finally:
        may_end.set()
        thread.join()


async def test_a_session_whose_sending_is_held_back_does_not_take_the_gateway_for_dead(
    keys_folder: Path, keys: ClientKeys
) -> None:
    """The gateway beats but does not read, as while its journal stalls, until nothing more fits on the way to it."""
    server = load_server_keys(keys_folder)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits)
    serving = asyncio.create_task(router.serve(lambda _: None))
    opening = asyncio.create_task(Session.open(router.url, keys, HELLO, TIMEOUT))
    identity = (await router.receive()).identity
    router.send(identity, encode_message(welcome()))
    session = await opening
    sending = asyncio.create_task(send_for_ever(session, TrialDone("r/train/0/0", bytes(1 << 12))))
    for _ in range(int(6 * session.welcome.dead_after_seconds / 0.02)):
        router.send(identity, encode_message(Heartbeat()))
        await asyncio.sleep(0.02)
    sending.cancel()
    heard = {(await router.receive()).identity for _ in range(500)}  # connections take turns in being heard
    assert heard == {identity}, "it never opened another one"
    await session.close("enough")
    serving.cancel()
    await asyncio.wait([serving])
    router.close()


async def send_for_ever(session: Session, message: AnyMessage) -> None:
    while True:
        await session.send(message)
        await asyncio.sleep(0)


async def test_a_session_gives_up_on_a_learner_that_stays_away(keys_folder: Path, keys: ClientKeys) -> None:
    answer = welcome(dead_after=0.1)
    async with ScriptedGateway(keys_folder, answer=answer).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
    with pytest.raises(Missing, match="can't reach"):
        await asyncio.wait_for(session.receive(), TIMEOUT)
    with pytest.raises(Missing, match="can't reach"):
        await session.send(StatusRequest())
    await session.close("gave up")


async def test_sending_waits_while_the_learner_is_away(
    keys_folder: Path, keys: ClientKeys, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedGateway(keys_folder, answer=welcome(dead_after=LONG)).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        port = gateway.port
    await away(caplog)

    async def send_many() -> None:
        for _ in range(OUTBOX_MESSAGES + 10):
            await session.send(StatusRequest())

    sending = asyncio.create_task(send_many())
    done, _ = await asyncio.wait([sending], timeout=0.3)
    assert not done
    async with ScriptedGateway(keys_folder, port, answer=welcome(dead_after=LONG)).running() as gateway:
        await asyncio.wait_for(sending, TIMEOUT)
        await until(gateway, OUTBOX_MESSAGES + 11)
        await session.close("enough")


async def test_after_shutdown_a_session_does_not_come_back(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        gateway.router.send(gateway.identities[0], encode_message(Shutdown("done", 0)))
        assert await session.receive() == Shutdown("done", 0)
    with pytest.raises(Missing, match="closed"):
        await asyncio.wait_for(session.receive(), TIMEOUT)
    await session.close("the run is over")


async def test_a_message_too_big_to_arrive_is_refused_at_the_sender(keys_folder: Path, keys: ClientKeys) -> None:
    async with ScriptedGateway(keys_folder).running() as gateway:
        session = await Session.open(gateway.router.url, keys, HELLO, TIMEOUT)
        with pytest.raises(CodecError, match="over the limit"):
            await session.send(TrialDone("r/train/0/0", bytes(MAX_MESSAGE_BYTES)))
        await session.send(StatusRequest())
        await until(gateway, 2)
        await session.close("enough")


async def test_a_frame_over_the_sockets_limit_costs_only_its_sender_the_connection(keys_folder: Path) -> None:
    keys, server = load_client_keys(keys_folder, Role.ACTOR), load_server_keys(keys_folder)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits, max_bytes=1000)
    serving = asyncio.create_task(router.serve(lambda _: None))
    honest = DealerEndpoint(router.url, keys.pair, keys.server_public, max_bytes=1000)
    hostile = DealerEndpoint(router.url, keys.pair, keys.server_public)
    try:
        await honest.connected(TIMEOUT)
        await hostile.connected(TIMEOUT)
        with pytest.raises(CodecError, match="over the socket's limit of 1000"):
            await honest.send(bytes(1001))
        await hostile.send(bytes(5000))
        await asyncio.wait_for(hostile.lost(), TIMEOUT)
        await honest.send(b"still here")
        received = await asyncio.wait_for(router.receive(), TIMEOUT)
        assert (received.data, received.key) == (b"still here", keys.pair.public)
        with pytest.raises(CodecError, match="over the socket's limit of 1000"):
            router.send(received.identity, bytes(1001))
    finally:
        honest.close(linger_ms=0)
        hostile.close(linger_ms=0)
        serving.cancel()
        await asyncio.wait([serving])
        router.close()


async def test_a_router_says_so_when_a_peer_is_gone(keys_folder: Path) -> None:
    server = load_server_keys(keys_folder)
    router = RouterEndpoint("tcp://127.0.0.1", 0, server.pair, server.allow_list().admits)
    assert router.send(b"nobody", b"hello?") is False
    router.close()


def test_two_gateways_cannot_share_a_port(keys_folder: Path) -> None:
    async def bind_twice() -> None:
        keys = load_server_keys(keys_folder)
        first = RouterEndpoint("tcp://127.0.0.1", 0, keys.pair, keys.allow_list().admits)
        try:
            port = int(first.url.rsplit(":", 1)[1])
            with pytest.raises(Missing, match=f"port {port} of tcp://127.0.0.1 is taken"):
                RouterEndpoint("tcp://127.0.0.1", port, keys.pair, keys.allow_list().admits)
            with pytest.raises(BadInput, match=r"gateway\.bind=tcp://192\.0\.2\.1"):
                RouterEndpoint("tcp://192.0.2.1", 0, keys.pair, keys.allow_list().admits)
        finally:
            first.close()

    asyncio.run(bind_twice())
