"""How much of what connections sent waits in memory unread, and that it stays within a bound.

ZeroMQ counts whole messages, and reads on while a message has not ended, however many frames it has; and whole messages
of a connection that is gone wait on. So two things are looked at. The kernel counts the bytes of each connection (RFC
4898's tcpEStatsAppHCThruOctetsReceived, `tcp_info` of Linux); what the receiver has taken of them is counted here, and
the difference waits. And by how much the process has grown since nothing was left to be received: frames without a byte
take memory too. Where the system does not tell, nothing is bounded.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
import sys
from pathlib import Path

log = logging.getLogger("lamer.connections")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LARGE_SHARE = 16
"""Where memory alone is beyond the bound, who has less than this part of it unread is not to blame."""
_RECEIVED = 128
"""Where `struct tcp_info` has the bytes that were received."""


class Unread:
    """The connections of one socket by their descriptors.

    `read` and `drained` are called by the thread that receives, all else by the one that watches connections. Where a
    descriptor was given away again in between, its count may be off by what the first connection left.
    """

    def __init__(self, most: int) -> None:
        """most: bytes that may wait, of all connections together."""
        self._most = most
        self._taken: dict[int, int] = {}
        self._is_drained = True
        self._size_when_drained = 0
        self._info = ctypes.create_string_buffer(256)
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def opened(self, descriptor: int) -> None:
        """A connection was accepted."""
        self._taken[descriptor] = 0

    def closed(self, descriptor: int) -> None:
        """A connection is gone."""
        self._taken.pop(descriptor, None)

    def drained(self) -> None:
        """Nothing is left to be received."""
        self._is_drained = True

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

    def bound(self) -> bool:
        """Hang up on those that sent most, until what waits of the others is within the bound.

        Returns:
            whether newcomers have to wait, since the process has grown by more than the bound all the same.
        """
        waiting = {descriptor: self.waiting(descriptor) for descriptor in tuple(self._taken)}
        size = _resident_bytes()
        if self._is_drained:
            self._is_drained, self._size_when_drained = False, size
        grown = size - self._size_when_drained
        total = sum(waiting.values())
        for descriptor, count in sorted(waiting.items(), key=lambda item: -item[1]):
            is_to_blame = total > self._most or (grown > self._most and count * _LARGE_SHARE > self._most)
            if not is_to_blame:
                break
            told = (total, count, grown)
            log.warning("%d bytes wait to be read, %d from one peer, in %d of memory: it is hung up on", *told)
            if _hung_up(descriptor):
                self.closed(descriptor)
            total -= count
        return grown > self._most


def _resident_bytes() -> int:
    """What the process takes of the machine's memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _hung_up(descriptor: int) -> bool:
    """End a connection, if that can be done now; whoever owns the descriptor finds out and closes it."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:  # gone already, or no descriptor is left: it is looked at again
        log.warning("a connection can't be hung up on: %s", error)
        return False
    return True
