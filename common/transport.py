"""The run's ZeroMQ sockets: bytes in, bytes out, encrypted and authenticated with CURVE. Only this module imports zmq.

    RouterEndpoint   the gateway's end: binds, tells peers apart by their routing id, never waits for a slow one
    DealerEndpoint   everyone else's end: connects, or says why it can't

What ZeroMQ does silently is checked here: a frame over MAXMSGSIZE (the receiver hangs up and the message is gone) is
refused at the sender; a failed CURVE handshake (nothing is raised at `send`) is read from the socket's monitor; a
message for a peer that has gone or whose queue is full (`SEND_QUEUE`) makes `RouterEndpoint.send` answer False, and a
dealer's `send` waits while `SEND_QUEUE` messages are queued or no learner is connected. A router says with whose key a
message came. It lets newcomers wait while it has as many connections as it has file descriptors for. It does not read
from a peer that has `RECEIVE_QUEUE` messages waiting, which holds that peer back by TCP, and hangs up on whoever sent
most where more than `MOST_UNREAD_BYTES` wait: no queue counts the frames of a message that has not ended. To notice
that the other end is silent is for heartbeats (`common.session`, `learner.gateway.peers`); what a vanished one leaves
in the kernel ends after a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message, recv_monitor_message

from lamer.common.codec import MAX_MESSAGE_BYTES, CodecError
from lamer.common.errors import BadInput, LamerError, Missing
from lamer.common.listening import Listener, is_ipv6
from lamer.common.liveness.connections import ConnectionGate, allowance
from lamer.common.liveness.unread import Unread
from lamer.common.reachability import why_unreachable

SEND_QUEUE = 4096
RECEIVE_QUEUE = 64
MOST_UNREAD_BYTES = 4 * 1024**3
LINGER_MS = 2000
HANDSHAKE_SECONDS = 15.0
"""How long a newcomer may take to exchange keys at the gateway, which takes four round trips."""
FRAMES_A_TURN = 1000
_WATCH_MS = 250
_RECONNECT_MS = 100
_CONNECT_MS = 5000
"""How long one try to connect may take. The kernel's own tries get rarer, and would miss that a cut network is back."""
_UNANSWERED_MS = 60_000
"""After so long without a sign that what was sent arrived (TCP user timeout), the kernel gives a connection up: a peer
that vanished without a word leaves neither a socket nor a queue behind."""
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_MONITOR_ENDPOINT = "inproc://connections"
_HANDSHAKE_FAILURES = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
)
_CONNECTION_EVENTS = (
    _HANDSHAKE_FAILURES
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.ACCEPTED
    | zmq.Event.ACCEPT_FAILED
    | zmq.Event.DISCONNECTED
    | zmq.Event.MONITOR_STOPPED
)


class Disconnected(LamerError):
    """The connection to the other end is gone; a new endpoint may reach it."""

    exit_code = 3


class NoHandshake(Missing):
    """A learner listens there, and does not exchange keys: it is busy, or very far."""


class HandshakeFailed(Missing):
    """The other end refused our keys, or we its key."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair as Z85 text, 40 characters each."""

    public: str
    secret: str


def make_key_pair() -> KeyPair:
    """A new random key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def public_of(secret: str) -> str:
    """The public key that belongs to a secret one, both as Z85 text."""
    return zmq.curve_public(secret.encode("ascii")).decode("ascii")


def _check_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise CodecError(f"a message of {len(data)} bytes is over the socket's limit of {max_bytes}")


def _on_wire(size: int) -> int:
    """Bytes that a frame of `size` bytes takes: CurveZMQ's MESSAGE adds 33, ZMTP's header 2, or 9 to more than 255."""
    return size + 33 + (2 if size + 33 <= 255 else 9)


@dataclass(frozen=True, slots=True)
class Received:
    """A message at the gateway. identity: routing id of the connection. key: public key (Z85) of who sent it.

    data: empty for a message of several frames.
    """

    identity: bytes
    key: str
    data: bytes


class RouterEndpoint:
    """The gateway's end of every connection. Made inside a running event loop; `serve` must run while it is used."""

    def __init__(
        self,
        bind: str,
        port: int,
        keys: KeyPair,
        is_allowed: Callable[[str], bool],
        max_bytes: int = MAX_MESSAGE_BYTES,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        most_unread: int = MOST_UNREAD_BYTES,
    ) -> None:
        """Bind to `bind` (such as "tcp://0.0.0.0") at `port`, 0 for a free one.

        is_allowed: asked with a client's public key (Z85) at every handshake. handshake_seconds: how long one may take.
        most_unread: bytes of all peers together that wait to be received.

        Raises:
            Missing: the port is taken, or the process may open too few files. BadInput: `bind` is no address of this
                machine.
        """
        self._max_bytes = max_bytes
        self._is_allowed = is_allowed
        self._on_refused: Callable[[str], None] = lambda reason: None
        self._loop = asyncio.get_running_loop()
        self._allowance = allowance()
        self._listener = Listener(bind, port, self._allowance.backlog)
        self.url = self._listener.url
        self._context = zmq.asyncio.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP_ENDPOINT)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_secretkey = keys.secret.encode("ascii")
        self._socket.zap_domain = b"lamer"
        self._socket.router_mandatory = True
        self._socket.setsockopt(zmq.IPV6, int(self._listener.is_ipv6))
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self._socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        self._socket.setsockopt(zmq.TCP_MAXRT, _UNANSWERED_MS)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * handshake_seconds))
        self._socket.linger = LINGER_MS
        self._rest: zmq.Socket[bytes] = zmq.Socket.shadow(self._socket.underlying)
        self._watcher = threading.Thread(target=self._watch, name="connections", daemon=True)
        try:
            self._gate = ConnectionGate(self._allowance.most, self._close_door, self._open_door)
            self._unread = Unread(most_unread)
            self._allowance.keep_back()
            self._socket.monitor(_MONITOR_ENDPOINT, _CONNECTION_EVENTS)
            self._watcher.start()
            self._socket.setsockopt(zmq.USE_FD, self._listener.hand_over())
            self._socket.bind(self._listener.local_url)
        except BaseException:
            self.close()
            raise

    async def serve(self, on_refused: Callable[[str], None]) -> None:
        """Answer handshakes, and tell `on_refused` of every one that failed, until cancelled."""
        self._on_refused = on_refused
        await self._authenticate()

    async def _authenticate(self) -> None:
        """ZAP (ZeroMQ RFC 27): libzmq asks for every client's key over an inproc socket, and tells it from then on with
        every message of that connection.
        """
        while True:
            version, request, _domain, _address, _identity, mechanism, *credentials = await self._zap.recv_multipart()
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" else b""
            is_allowed = bool(key) and self._is_allowed(key.decode("ascii"))
            status, text = (b"200", b"OK") if is_allowed else (b"400", b"unknown key")
            await self._zap.send_multipart([version, request, status, text, key, b""])

    def _watch(self) -> None:
        """In a thread of its own, since connections can come faster than a busy event loop looks."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(self._context.underlying)
        with context.socket(zmq.PAIR) as monitor:
            monitor.linger = 0
            monitor.connect(_MONITOR_ENDPOINT)
            looked = time.monotonic()
            while True:
                if monitor.poll(_WATCH_MS):
                    told = parse_monitor_message(monitor.recv_multipart())
                    if told["event"] == zmq.Event.MONITOR_STOPPED:
                        return
                    self._note(told["event"], told["value"])
                if time.monotonic() - looked >= _WATCH_MS / 1000:
                    self._gate.crowd(self._unread.bound())
                    looked = time.monotonic()

    def _note(self, event: int, value: int) -> None:
        """What the monitor says of a connection. value: its descriptor, if it has one."""
        if event == zmq.Event.ACCEPTED:
            self._gate.accepted(value)
            self._unread.opened(value)
        elif event == zmq.Event.ACCEPT_FAILED:
            self._gate.exhausted()
        elif event == zmq.Event.DISCONNECTED:
            self._gate.closed(value)
            self._unread.closed(value)
        else:
            self._gate.shook_hands()
        if event & _HANDSHAKE_FAILURES:
            is_unknown = event == zmq.Event.HANDSHAKE_FAILED_AUTH
            self._tell("key not in allowed/" if is_unknown else "its server.key is not ours, or it is no lamer")

    def _close_door(self) -> bool:
        is_closed = self._listener.pause()
        if is_closed:
            self._allowance.give_all()
        return is_closed

    def _open_door(self) -> None:
        self._allowance.keep_back()
        self._listener.resume()

    def _tell(self, reason: str) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(lambda: self._on_refused(reason))

    async def receive(self) -> Received:
        """The next message."""
        if not self._rest.poll(0):
            self._unread.drained()
        identity = await self._socket.recv(copy=False)
        frame = self._rest.recv(zmq.NOBLOCK, copy=False)  # a message is there as a whole, or not at all
        key, descriptor, is_one = str(frame.get("User-Id")), int(identity.get(zmq.SRCFD)), not frame.more
        self._unread.read(descriptor, _on_wire(len(frame)))
        data, others = frame.bytes if is_one else b"", 0
        while frame.more:
            frame = self._rest.recv(zmq.NOBLOCK, copy=False)
            self._unread.read(descriptor, _on_wire(len(frame)))
            others += 1
            if others % FRAMES_A_TURN == 0:
                await asyncio.sleep(0)
        return Received(identity.bytes, key, data)

    def send(self, identity: bytes, data: bytes) -> bool:
        """Queue a message for a peer without waiting; False if the peer has gone or does not read its messages.

        Raises:
            CodecError: the message is too big to be received.
        """
        _check_size(data, self._max_bytes)
        sent = self._socket.send_multipart([identity, data], flags=zmq.NOBLOCK)
        error = sent.exception() if isinstance(sent, asyncio.Future) else None
        if isinstance(error, zmq.ZMQError) and error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        if error is not None:
            raise error
        return True

    def close(self) -> None:
        """Close the socket; messages already queued get up to `LINGER_MS` to leave. Harmless when called again."""
        if self._watcher.is_alive() and not self._socket.closed:
            self._socket.disable_monitor()
            self._watcher.join()
        _close([self._socket, self._zap], self._context)
        self._listener.close()


def _close(sockets: Sequence[zmq.asyncio.Socket], context: zmq.asyncio.Context) -> None:
    for socket in sockets:
        if not socket.closed:
            socket.close()
    context.destroy()


class DealerEndpoint:
    """One connection to the gateway, used until it is lost; a new one is opened then."""

    def __init__(self, url: str, keys: KeyPair, server_key: str, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """Start to connect to `url`; `connected` tells when that is done.

        Raises:
            BadInput: `url` is no ZeroMQ address.
        """
        self.url = url
        self._max_bytes = max_bytes
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.curve_publickey = keys.public.encode("ascii")
        self._socket.curve_secretkey = keys.secret.encode("ascii")
        self._socket.curve_serverkey = server_key.encode("ascii")
        self._socket.setsockopt(zmq.IPV6, int(is_ipv6(url)))
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self._socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        self._socket.setsockopt(zmq.RCVHWM, SEND_QUEUE)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
        self._socket.setsockopt(zmq.TCP_MAXRT, _UNANSWERED_MS)
        self._socket.linger = LINGER_MS
        self._monitor = self._socket.get_monitor_socket(
            _HANDSHAKE_FAILURES | zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
        )
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close(linger_ms=0)
            raise BadInput(f"{url!r} is no address such as tcp://learner-host:5555 ({error.strerror})") from error

    async def connected(self, timeout: float) -> None:
        """Wait until keys are exchanged, `timeout` seconds at most.

        Raises:
            HandshakeFailed: a CURVE key is wrong. Missing: no learner listens there; NoHandshake: it is too slow.
        """
        failures = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    event = (await recv_monitor_message(self._monitor))["event"]
                    if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                        return
                    failures += bool(event & _HANDSHAKE_FAILURES)
                    if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                        raise HandshakeFailed(
                            f"wrong CURVE key: the learner at {self.url} does not allow this client's public key; "
                            "there, `lamer keys create --role ROLE NAME` makes one that it does"
                        )
                    if failures > 1:  # one may be a gateway that stopped in the middle of a handshake
                        break
        except TimeoutError as error:
            why = await why_unreachable(self.url)
            kind, why = (Missing, why) if why else (NoHandshake, "it does not exchange keys: is it busy or very far?")
            raise kind(f"can't reach the learner at {self.url} within {timeout:g} s: {why}") from error
        why = await why_unreachable(self.url)
        if why:
            raise Missing(f"can't reach the learner at {self.url}: {why}")
        raise HandshakeFailed(
            f"wrong CURVE key: the learner at {self.url} has another key than server.key of this keys folder; "
            "copy it from the learner"
        )

    async def lost(self) -> None:
        """Wait until the connection breaks."""
        while (await recv_monitor_message(self._monitor))["event"] != zmq.Event.DISCONNECTED:
            pass

    async def send(self, data: bytes) -> None:
        """Send a message; waits while the queue is full.

        Raises:
            CodecError: the message is too big to be received.
        """
        _check_size(data, self._max_bytes)
        await self._socket.send(data)

    async def receive(self) -> bytes:
        """The next message."""
        data: bytes = await self._socket.recv()
        return data

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the connection; messages already queued get up to `linger_ms` to leave. Harmless when called again."""
        if not self._socket.closed:
            self._socket.linger = linger_ms
        _close([self._monitor, self._socket], self._context)
