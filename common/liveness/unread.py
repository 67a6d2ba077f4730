"""How much of what connections sent waits in memory unread, and that it stays within a bound.

ZeroMQ counts whole messages, and reads on while a message has not ended, however many frames it has. The kernel counts
bytes of each connection (RFC 4898's tcpEStatsAppHCThruOctetsReceived, `tcp_info` of Linux); what the receiver has taken
of them is counted here, and the difference waits. Where the kernel does not tell, nothing is bounded.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
import sys

log = logging.getLogger("lamer.connections")

_RECEIVED = 128
"""Where `struct tcp_info` has the bytes that were received."""


class Unread:
    """The connections of one socket by their descriptors.

    `read` is called by the thread that receives, all else by the one that watches connections. Where a descriptor was
    given away again in between, a count may be off by a message.
    """

    def __init__(self, most: int) -> None:
        """most: bytes that may wait, of all connections together."""
        self._most = most
        self._taken: dict[int, int] = {}
        self._info = ctypes.create_string_buffer(256)
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def opened(self, descriptor: int) -> None:
        """A connection was accepted."""
        self._taken[descriptor] = 0

    def closed(self, descriptor: int) -> None:
        """A connection is gone."""
        self._taken.pop(descriptor, None)

    def read(self, descriptor: int, count: int) -> None:
        """The receiver took what had so many bytes on the wire."""
        if descriptor in self._taken:
            self._taken[descriptor] += count

    def waiting(self, descriptor: int) -> int:
        """Bytes of a connection that nobody has taken; what it said before its first message is among them."""
        if self._libc is None:
            return 0
        size = ctypes.c_uint(len(self._info))
        failed = self._libc.getsockopt(descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, self._info, ctypes.byref(size))
        if failed or size.value < _RECEIVED + 8:
            return 0
        received: int = struct.unpack_from("Q", self._info, _RECEIVED)[0]
        return max(0, received - self._taken.get(descriptor, received))

    def bound(self) -> None:
        """Hang up on those that sent most, until what waits of the others is within the bound."""
        waiting = {descriptor: self.waiting(descriptor) for descriptor in tuple(self._taken)}
        total = sum(waiting.values())
        for descriptor, count in sorted(waiting.items(), key=lambda item: -item[1]):
            if total <= self._most:
                return
            log.warning("%d bytes wait to be read, %d of them from one peer: it is hung up on", total, count)
            if _hung_up(descriptor):
                self.closed(descriptor)
            total -= count


def _hung_up(descriptor: int) -> bool:
    """End a connection, if that can be done now; whoever owns the descriptor finds out and closes it."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:  # gone already, or no descriptor is left: it is looked at again
        log.warning("a connection can't be hung up on: %s", error)
        return False
    return True
