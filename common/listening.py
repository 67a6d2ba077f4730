"""The learner's listening TCP socket, which can be told to let newcomers wait.

`Listener.pause` makes the kernel drop what newcomers send to the port, so that they try again, as TCP does by itself;
connections that exist are other sockets and don't notice. It needs Linux; elsewhere nothing is paused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys

from lamer.common.errors import BadInput, LamerError, Missing

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_ZERO = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A classic BPF program of one instruction: take none of the packet."""


class Listener:
    """Listens from the moment it is made. url: where, as clients connect to it. is_ipv6: the family of its address."""

    def __init__(self, bind: str, port: int, backlog: int = 1) -> None:
        """Listen at `bind` (such as "tcp://0.0.0.0" or "tcp://[::1]") and `port`, 0 for a free one.

        backlog: connections that may wait to be accepted; so many may still come after `pause`.

        Raises:
            Missing: the port is taken. BadInput: `bind` is no address of this machine.
        """
        family, address = _resolve(bind, port)
        self.is_ipv6 = family == socket.AF_INET6
        self._socket = socket.socket(family)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.is_ipv6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._socket.bind(address)
            self._socket.listen(backlog)
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise _bind_error(bind, port, error) from error
        self._socket.setblocking(False)
        host, bound = self._socket.getsockname()[:2]
        self.local_url = f"tcp://[{host}]:{bound}" if self.is_ipv6 else f"tcp://{host}:{bound}"
        self.url = self.local_url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        self._filter = ctypes.create_string_buffer(_RETURN_ZERO)

    def hand_over(self) -> int:
        """A file descriptor of the socket for whoever accepts connections, and closes it in the end."""
        return os.dup(self._socket.fileno())

    def pause(self) -> bool:
        """Let newcomers wait; whether that is possible here."""
        if sys.platform != "linux":
            return False
        program = struct.pack("HL", 1, ctypes.addressof(self._filter))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        return True

    def resume(self) -> None:
        """Let newcomers in again."""
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Stop listening, once whoever accepts has closed its descriptor as well."""
        self._socket.close()


def is_ipv6(url: str) -> bool:
    """Whether a tcp:// address names an IPv6 address, in brackets."""
    return "[" in url


def _resolve(bind: str, port: int) -> tuple[int, tuple[object, ...]]:
    host = bind.removeprefix("tcp://").strip("[]")
    if not bind.startswith("tcp://") or not host:
        raise BadInput(f"can't listen at gateway.bind={bind}: it is no address such as tcp://0.0.0.0 or tcp://[::1]")
    if host == "*":
        host = "0.0.0.0"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadInput(f"can't listen at gateway.bind={bind} gateway.port={port}: {error}") from error
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _bind_error(bind: str, port: int, error: Exception) -> LamerError:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return Missing(f"port {port} of {bind} is taken: choose another gateway.port, or 0 for a free one")
    why = os.strerror(number) if number else str(error)
    return BadInput(f"can't listen at gateway.bind={bind} gateway.port={port}: {why}")
