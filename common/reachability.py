"""What stands between us and an address, found out with one TCP connection.

why_unreachable   an address that gave no answer -> what a user can do about it
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from urllib.parse import urlsplit

PROBE_SECONDS = 3.0
_ZEROMQ_GREETING = b"\xff"
"""First byte that a ZeroMQ socket sends to whoever connects (ZMTP 3.1)."""


async def why_unreachable(url: str) -> str:
    """Why the learner at `url` (tcp://host:port) can't be talked to, "" when a ZeroMQ socket answers there.

    Takes a few seconds where nothing answers.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = parts.port
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
    except ValueError as error:
        return f"{url!r} names no port: {error}"
    except TimeoutError:
        return f"no answer from {host} at all: is the address right, and port {port} open in every firewall between?"
    except socket.gaierror:
        return f"no machine is known here by the name {host!r}"
    except ConnectionRefusedError:
        return (
            f"{host} is there, but nothing listens at port {port} of this address: is the learner running, with this "
            "--port, and with a --bind that others can reach (tcp://0.0.0.0)?"
        )
    except OSError as error:
        return f"no way to {host} port {port}: {os.strerror(error.errno) if error.errno else error}"
    try:
        first = b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(PROBE_SECONDS):
                first = await reader.read(1)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return "" if first == _ZEROMQ_GREETING else f"what listens at {host} port {port} is no learner"
