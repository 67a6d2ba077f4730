"""Reading what another process sends without an end in sight."""

from __future__ import annotations

from typing import Protocol


class Chunks(Protocol):
    """What bytes come from, such as the content of an HTTP answer."""

    async def readany(self) -> bytes:
        """The bytes that are there, at least one; none at the end."""
        ...


async def read_bounded(chunks: Chunks, most: int) -> bytes | None:
    """All bytes; None as soon as they are more than `most`."""
    parts: list[bytes] = []
    size = 0
    while part := await chunks.readany():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)
