"""What was read from a connection and not taken yet: bounded, so that no sender can fill the memory."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

MessageT = TypeVar("MessageT")


class Inbox(Generic[MessageT]):
    """A queue of one event loop, for one that puts and one that gets."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """most: messages. most_bytes: of all that wait; one message may be more."""
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[MessageT, int]] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._waiting) >= self._most or self._bytes >= self._most_bytes

    async def put(self, message: MessageT, size: int) -> None:
        """Add a message of `size` bytes; waits while the inbox is full."""
        while self.is_full and not self._is_closed:
            await self._change()
        self.put_now(message, size)

    def put_now(self, message: MessageT, size: int = 0) -> None:
        """Add a message beyond any bound: one of our own, of which there are few."""
        self._waiting.append((message, size))
        self._bytes += size
        self._changed.set()

    async def get(self) -> MessageT | None:
        """The next message; None once the inbox is closed and empty."""
        while not self._waiting and not self._is_closed:
            await self._change()
        if not self._waiting:
            return None
        message, size = self._waiting.popleft()
        self._bytes -= size
        self._changed.set()
        return message

    def close(self) -> None:
        """Nothing is added any more."""
        self._is_closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
