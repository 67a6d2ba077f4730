"""One process's connection to the gateway: what actors, hosts, trainers and observers talk through.

    Session.open   connect, exchange keys, say Hello, get Welcome
    send, receive  messages; heartbeats are exchanged inside and never seen
    ask            one message, answered by another
    close          say Goodbye and hang up

A task owned by the session reads, writes and beats. When the connection breaks, or nothing was heard for
`Welcome.dead_after_seconds`, it opens a new one and says the same Hello again (same `instance`, so that the gateway
knows the process); the new Welcome comes out of `receive`. Messages on their way at that moment may be lost: what must
arrive is resent until it is answered. After `PATIENCE` times `dead_after_seconds` without a learner the session gives
up.

Bytes that are no message are logged and ignored. What waits to be received is bounded (`INBOX_MESSAGES`,
`INBOX_BYTES`): beyond that nothing is read, which holds the learner back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from typing import TypeVar

import msgspec

from lamer.common.codec import CodecError, decode_message, encode_message
from lamer.common.errors import BadInput, LamerError, Missing
from lamer.common.keys import ClientKeys
from lamer.common.liveness.inbox import Inbox
from lamer.common.liveness.line_budget import limited
from lamer.common.messages import AnyMessage, Goodbye, Heartbeat, Hello, Reject, Shutdown, Welcome, name_problem
from lamer.common.transport import DealerEndpoint, Disconnected, NoHandshake

log = logging.getLogger("lamer.session")

AnswerT = TypeVar("AnswerT")

PATIENCE = 10.0
BUSY_SECONDS = 600.0
"""How long actors, hosts and the trainer wait for the answer of a learner that is there: its disk may be stalled."""
WAITING_NOTE_SECONDS = 10.0
OUTBOX_MESSAGES = 64
INBOX_MESSAGES = 4096
INBOX_BYTES = 512 * 1024 * 1024
_CLOSE_SECONDS = 2.0
_RETRY_SECONDS = 0.5


class Session:
    """A connection that lives as long as its process wants it, made by `Session.open`; it belongs to one event loop.

    welcome: the gateway's latest answer to our Hello. in_flight: what heartbeats report, set by the owner.
    """

    def __init__(self, url: str, keys: ClientKeys, hello: Hello, endpoint: DealerEndpoint, welcome: Welcome) -> None:
        """Take over a connection on which Hello and Welcome were exchanged; use `open`."""
        self.welcome = welcome
        self.in_flight = 0
        self._url = url
        self._keys = keys
        self._hello = hello
        self._inbox: Inbox[AnyMessage] = Inbox(INBOX_MESSAGES, INBOX_BYTES)
        self._kept: deque[AnyMessage] = deque()
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue(OUTBOX_MESSAGES)
        self._unsent: bytes | None = None
        self._was_heard = True
        self._is_over = False
        self._failure: BaseException | None = None
        self._endpoint = endpoint
        self._task = asyncio.create_task(self._run(), name=f"session {hello.name}")

    @classmethod
    async def open(cls, url: str, keys: ClientKeys, hello: Hello, timeout: float, busy: float = 0.0) -> Session:
        """Connect to the gateway at `url`, trying for `timeout` seconds, or for `busy` if it is there and that is more.

        Raises:
            Missing: nothing answers there, or a CURVE key is wrong. BadInput: the gateway refused the Hello, or would.
        """
        if problem := name_problem(hello.name):
            raise BadInput(problem)
        if not hello.instance:
            hello = msgspec.structs.replace(hello, instance=secrets.token_hex(8))
        endpoint, welcome = await _connect(url, keys, hello, timeout, busy)
        return cls(url, keys, hello, endpoint, welcome)

    async def send(self, message: AnyMessage) -> None:
        """Queue a message. Waits while `OUTBOX_MESSAGES` are queued, as happens while the learner is away.

        Raises:
            CodecError: the message is too big. Missing, BadInput: the connection was given up.
        """
        data = encode_message(message)
        self._raise_failure()
        await self._outbox.put(data)
        self._raise_failure()

    async def receive(self) -> AnyMessage:
        """The next message: what the gateway sent, a new Welcome after a reconnection among it.

        Raises:
            Missing: the learner was away for too long, or has gone after its Shutdown. BadInput: it refuses us.
        """
        return self._kept.popleft() if self._kept else await self._next()

    async def ask(self, question: AnyMessage, kind: type[AnswerT]) -> AnswerT:
        """Send a message and wait for the first one of type `kind`; asked again after a reconnection.

        What else arrives meanwhile comes out of `receive` afterwards, in order. For the one task that receives.

        Raises:
            Missing: as `receive`, or a learner that is there did not answer for as long as one may be away, or said
                `INBOX_MESSAGES` other things.
            BadInput: as `receive`.
        """
        patience = PATIENCE * self.welcome.dead_after_seconds
        try:
            async with asyncio.timeout(patience) as bound:
                await self.send(question)
                while not isinstance(answer := await self._next(), kind):
                    if len(self._kept) >= INBOX_MESSAGES:
                        raise Missing(f"the learner at {self._url} sent {len(self._kept)} messages and no answer")
                    self._kept.append(answer)
                    if isinstance(answer, Welcome):
                        await self.send(question)
                        bound.reschedule(asyncio.get_running_loop().time() + patience)
                return answer
        except TimeoutError:
            name = type(question).__name__
            raise Missing(f"the learner at {self._url} did not answer our {name} within {patience:g} s") from None

    async def _next(self) -> AnyMessage:
        message = await self._inbox.get()
        if message is None:
            self._raise_failure()
            raise Missing(f"the connection to the learner at {self._url} is closed")
        return message

    async def close(self, reason: str) -> None:
        """Say Goodbye if the gateway is there, and hang up. Harmless when called again."""
        if not self._task.done():
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._outbox.put(encode_message(Goodbye(reason)))
                    await self._outbox.join()
            except TimeoutError:
                log.warning("the learner at %s did not take our Goodbye within %g s", self._url, _CLOSE_SECONDS)
            self._is_over = True  # a connection that breaks at this moment would swallow the cancellation
            self._task.cancel()
        await asyncio.wait([self._task])
        self._endpoint.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _run(self) -> None:
        """Talk, and reconnect, until cancelled, over or given up."""
        try:
            with limited(log):
                while not self._is_over:
                    await self._converse()
                    self._endpoint.close(linger_ms=0)
                    if not self._is_over:
                        await self._reconnect()
        except Exception as error:  # kept for the owner: receive() and send() raise it
            self._failure = error
        finally:
            self._inbox.close()
            while not self._outbox.empty():  # lets go whoever waits in send()
                self._outbox.get_nowait()
                self._outbox.task_done()

    async def _converse(self) -> None:
        """Use one connection until it is lost."""
        self._was_heard = True
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in (self._read(), self._write(), self._beat(), self._notice_silence(), self._notice_loss()):
                    tasks.create_task(work)
        except* Disconnected as lost:
            if not self._is_over:
                log.warning("%s", lost.exceptions[0])
        except* LamerError as failed:
            raise failed.exceptions[0] from None

    async def _reconnect(self) -> None:
        patience = PATIENCE * self.welcome.dead_after_seconds
        clock = asyncio.get_running_loop().time
        give_up = clock() + patience
        while True:
            try:
                self._endpoint, self.welcome = await _connect(self._url, self._keys, self._hello, give_up - clock())
            except Missing:  # its keys may be out of step for a moment while it starts again
                if clock() + _RETRY_SECONDS >= give_up:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                log.info("connected again to the learner at %s", self._url)
                self._inbox.put_now(self.welcome)
                return

    async def _read(self) -> None:
        while True:
            data = await self._endpoint.receive()
            self._was_heard = True
            try:
                message = decode_message(data)
            except CodecError as error:
                log.warning("a malformed message of the learner at %s is ignored: %s", self._url, error)
                continue
            if isinstance(message, Reject):
                raise BadInput(f"the learner refused us: {message.reason}")
            if isinstance(message, Shutdown):
                self._is_over = True
            if not isinstance(message, Heartbeat):
                await self._inbox.put(message, len(data))

    async def _write(self) -> None:
        while True:
            if self._unsent is None:
                self._unsent = await self._outbox.get()
            await self._endpoint.send(self._unsent)
            self._unsent = None
            self._outbox.task_done()

    async def _beat(self) -> None:
        while True:
            await self._endpoint.send(encode_message(Heartbeat(self.in_flight)))
            await asyncio.sleep(self.welcome.heartbeat_seconds)

    async def _notice_silence(self) -> None:
        """Counts silent heartbeat periods rather than time, so that a process that was suspended hears first."""
        silent = 0.0
        while silent < self.welcome.dead_after_seconds:
            self._was_heard = False
            await asyncio.sleep(self.welcome.heartbeat_seconds)
            silent = 0.0 if self._was_heard or self._inbox.is_full else silent + self.welcome.heartbeat_seconds
        raise Disconnected(f"nothing heard from the learner at {self._url} for {silent:g} s")

    async def _notice_loss(self) -> None:
        await self._endpoint.lost()
        raise Disconnected(f"the connection to the learner at {self._url} broke")


async def _connect(
    url: str, keys: ClientKeys, hello: Hello, timeout: float, busy: float = 0.0
) -> tuple[DealerEndpoint, Welcome]:
    """A new connection on which the gateway has welcomed us; timeout, busy: see `Session.open`."""
    longest = max(timeout, busy)
    give_up = asyncio.get_running_loop().time() + longest
    endpoint = DealerEndpoint(url, keys.pair, keys.server_public)
    try:
        await _exchange_keys(endpoint, timeout, give_up)
        async with asyncio.timeout_at(give_up):
            await endpoint.send(encode_message(hello))
            message = decode_message(await _answer(endpoint))
    except TimeoutError as error:
        endpoint.close(linger_ms=0)
        raise Missing(f"the learner at {url} took the connection but did not answer within {longest:g} s") from error
    except CodecError as error:
        endpoint.close(linger_ms=0)
        raise Missing(f"the learner at {url} answered Hello with what is no message: {error}") from error
    except BaseException:
        endpoint.close(linger_ms=0)
        raise
    if isinstance(message, Welcome):
        return endpoint, message
    endpoint.close(linger_ms=0)
    if isinstance(message, Reject):
        raise BadInput(f"the learner at {url} refused us: {message.reason}")
    raise Missing(f"the learner at {url} answered Hello with {type(message).__name__}: the run is ending")


async def _exchange_keys(endpoint: DealerEndpoint, timeout: float, give_up: float) -> None:
    """Wait for the handshake: for `timeout` seconds, or where a learner listens until loop time `give_up`."""
    clock = asyncio.get_running_loop().time
    while True:
        try:
            return await endpoint.connected(timeout)
        except NoHandshake as error:
            if clock() >= give_up:
                raise
            log.warning("%s We go on waiting.", error)


async def _answer(endpoint: DealerEndpoint) -> bytes:
    """The answer to our Hello, with a line in the log for every `WAITING_NOTE_SECONDS` without one.

    Raises:
        Missing: the connection broke.
    """
    receiving, losing = asyncio.create_task(endpoint.receive()), asyncio.create_task(endpoint.lost())
    waited = 0.0
    try:
        while True:
            await asyncio.wait((receiving, losing), timeout=WAITING_NOTE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
            if losing.done():
                raise Missing(f"the connection to the learner at {endpoint.url} broke before it answered")
            waited += WAITING_NOTE_SECONDS
            log.warning("the learner at %s has not answered for %g s: it is busy, we wait", endpoint.url, waited)
    finally:
        receiving.cancel()
        losing.cancel()
        await asyncio.wait((receiving, losing))
