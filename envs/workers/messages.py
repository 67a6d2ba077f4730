"""What passes over the socket between a worker process and its owner: one message a frame, MessagePack inside.

A frame is its length as four bytes, big-endian, and the message. The owner sends `Call` and `Drop`; every call is
answered by `Done` or `Failed`, in order. The first call of a session opens its game from `spec`.
"""

from __future__ import annotations

import socket
import struct

import msgspec

LARGEST_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Call(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A request to the game of a session. spec: what the game is opened from, where the session has none yet."""

    session: int
    spec: bytes
    request: bytes


class Drop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Close the game of a session."""

    session: int


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The game's answer. resident: bytes of memory that the worker holds."""

    answer: bytes
    resident: int


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The game raised; its session is closed."""

    reason: str
    resident: int


Request = Call | Drop
Reply = Done | Failed

_ENCODER = msgspec.msgpack.Encoder()


class Broken(ConnectionError):
    """The other end is gone, or sends what is no frame."""


def send(connection: socket.socket, message: Request | Reply) -> None:
    """Send one message, whole.

    Raises:
        Broken: the other end is gone, or the message is larger than a frame may be.
    """
    body = _ENCODER.encode(message)
    if len(body) > LARGEST_FRAME:
        raise Broken(f"a message of {len(body)} bytes, a frame has at most {LARGEST_FRAME}")
    try:
        connection.sendall(_LENGTH.pack(len(body)) + body)
    except TimeoutError:
        raise
    except OSError as error:
        raise Broken(str(error)) from error


def receive(connection: socket.socket) -> bytes:
    """The body of the next frame.

    Raises:
        Broken: the other end is gone. TimeoutError: it took longer than the socket's timeout between two pieces.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > LARGEST_FRAME:
        raise Broken(f"a frame of {length} bytes, at most {LARGEST_FRAME} are allowed")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    pieces: list[bytes] = []
    while count:
        try:
            piece = connection.recv(min(count, 1 << 20))
        except TimeoutError:
            raise
        except OSError as error:
            raise Broken(str(error)) from error
        if not piece:
            raise Broken("the other end closed the connection")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
