"""The time in which the gateway could hear its peers: by this clock silence is counted and leases run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Hearing:
    """A clock that stands still while the gateway does not receive.

    It does not while what it has received waits for a disk (`held_up`), nor while its event loop is blocked, which
    shows in `now` not being asked for longer than `beat`. What peers say meanwhile waits in the sockets: that it was
    not heard is nobody's silence, and a trial that waits there is not late.
    """

    def __init__(self, clock: Callable[[], float], beat: float) -> None:
        """clock: seconds of the event loop. beat: `now` is asked at least so often while the loop runs freely."""
        self._clock = clock
        self._beat = beat
        self._heard = 0.0
        self._since = clock()
        self._is_held_up = False

    def now(self) -> float:
        """Seconds since it was made, less those in which nothing was received."""
        time = self._clock()
        if not self._is_held_up:
            self._heard += min(time - self._since, self._beat)
        self._since = time
        return self._heard

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """While inside, the receiver waits for something else than messages."""
        self.now()
        self._is_held_up = True
        try:
            yield
        finally:
            self.now()
            self._is_held_up = False
