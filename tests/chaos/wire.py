"""A cable between two network namespaces, as a process: it delays Ethernet frames, and loses them while it is cut.

Run as `python wire.py LEFT RIGHT`: makes two TAP devices of those names, which belong into two namespaces, and obeys
lines on stdin: `delay SECONDS` (each way), `cut`, `mend`. Each is answered with the line itself. Ends with its stdin,
and the devices with it. A cut is silent, as that of a real cable: nobody is told, nothing is reset.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import sys
from functools import partial

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_LONGEST_FRAME = 65536


def open_tap(name: str) -> int:
    """A new TAP device of this namespace, as the file descriptor through which its frames come and go."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


class Wire:
    """Carries frames between two TAP devices. delay: seconds each way."""

    def __init__(self, left: int, right: int) -> None:
        self.delay = 0.0
        self.is_cut = False
        self._loop = asyncio.get_running_loop()
        for here, there in ((left, right), (right, left)):
            self._loop.add_reader(here, partial(self._carry, here, there))

    def _carry(self, here: int, there: int) -> None:
        try:
            frame = os.read(here, _LONGEST_FRAME)
        except OSError:  # the device is down
            return
        if not self.is_cut:
            self._loop.call_later(self.delay, self._deliver, there, frame)

    def _deliver(self, there: int, frame: bytes) -> None:
        if self.is_cut:
            return
        try:
            os.write(there, frame)
        except OSError:  # its device is down or its queue is full: a frame is lost, as on any network
            return


async def obey(wire: Wire) -> None:
    """Do what stdin says until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        match line.split():
            case ["delay", seconds]:
                wire.delay = float(seconds)
            case ["cut"]:
                wire.is_cut = True
            case ["mend"]:
                wire.is_cut = False
            case _:
                raise SystemExit(f"{line!r} is not delay SECONDS, cut or mend")
        print(line, flush=True)


async def main() -> None:
    """Make the devices, say so, and carry frames."""
    wire = Wire(open_tap(sys.argv[1]), open_tap(sys.argv[2]))
    print("ready", flush=True)
    await obey(wire)


if __name__ == "__main__":
    asyncio.run(main())
