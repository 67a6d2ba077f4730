"""Which network interface of this machine leads to another one."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from urllib.parse import urlsplit

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR
_NAME_BYTES, _REQUEST_BYTES, _ADDRESS_AT = 15, 256, slice(20, 24)


def interface_towards(url: str) -> str:
    """The interface by which packets leave for the machine in `url` (`tcp://HOST:PORT`), such as eth0; "" if that is
    this machine, or can't be told, as over IPv6. Nothing is sent.
    """
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((parts.hostname, parts.port or 9))
        except OSError:
            return ""
        own = probe.getsockname()[0]
        if own.startswith("127."):
            return ""
        return next((name for _, name in socket.if_nameindex() if _address(probe, name) == own), "")


def _address(any_socket: socket.socket, interface: str) -> str:
    """The interface's IPv4 address, "" if it has none."""
    request = struct.pack(f"{_REQUEST_BYTES}s", interface.encode()[:_NAME_BYTES])
    with contextlib.suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), _ADDRESS_OF_INTERFACE, request)[_ADDRESS_AT])
    return ""
