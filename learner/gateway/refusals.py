"""What the gateway refuses, told in the log: the first of a kind at once, then how many more, not more than a line in
`SECONDS` for each kind, whatever a peer sends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 10.0
KINDS = 200


@dataclass(slots=True)
class _Kind:
    """When the last line of a kind was written, and how often it was kept back since."""

    told: float
    held_back: int = 0


class Refusals:
    """Belongs to one event loop. clock: seconds. `KINDS` are told apart; what is beyond them counts as one."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def tell(self, kind: str, text: str) -> None:
        """Something was refused. kind: what counts as the same, such as the peer and the type of its message."""
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            kind = "others"
        now = self._clock()
        known = self._kinds.get(kind)
        if known is not None and now - known.told < SECONDS:
            known.held_back += 1
            return
        if known is not None and known.held_back:
            text += f" ({known.held_back} more like it since the last line)"
        self._kinds[kind] = _Kind(now)
        self._log.warning(text)  # not as a value: the log's line budget tells kinds apart by what stands before values
