"""Random numbers of a task: the same in every process, whatever the hash seed, the platform or what ran before."""

from __future__ import annotations

import hashlib
import random


def task_rng(*parts: str | int) -> random.Random:
    """A generator of its own for what `parts` name: the environment, the options that shape its tasks, the seed."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))
