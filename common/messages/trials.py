"""Trials on their way: leases to actors, what came of them, the servers to play them on."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from lamer.common.messages.base import Message
from lamer.common.records import Int64, MemoryMode, Purpose, Record, Task, evaluated_version


class NackKind(enum.StrEnum):
    """Why a trial was not accepted: resend it later, never (kept in quarantine), or never because it came too late."""

    RETRY = "retry"
    INVALID = "invalid"
    STALE = "stale"


class Sampling(Record, frozen=True):
    """How responses are sampled. top_k 0 and top_p 1 mean no restriction."""

    temperature: float
    top_p: float
    top_k: Int64
    max_response_tokens: Int64
    max_reflection_tokens: Int64


ShortText = Annotated[str, msgspec.Meta(max_length=2048)]
"""An address, a key, a name: what every actor is told again and again."""


class ServerInfo(Record, frozen=True):
    """An inference server as actors see it. `policy_version` is the version it was verified to hold.

    running, waiting: requests there when its host last asked, from all actors together. report: counts the host's
    reports, so that figures sent again are known for old ones.
    """

    name: ShortText
    url: ShortText
    api_key: ShortText
    policy_version: Int64
    max_running: Int64
    running: Int64 = 0
    waiting: Int64 = 0
    report: Int64 = 0


class Lease(Message, frozen=True):
    """Play this trial within `seconds` (counted on the receiver's monotonic clock).

    group_id, slot: the trial's place in its group; of an evaluation, the play and the version (`evaluated_version`).
    min_version: of training, the version that was applied when the group was admitted; older tokens could be too old
    for its place in a batch.
    """

    trial_id: str
    group_id: Int64
    slot: Int64
    purpose: Purpose
    task: Task
    episodes: Int64
    memory: MemoryMode
    sampling: Sampling
    seconds: float
    min_version: Int64 = 0

    @property
    def evaluated_version(self) -> int | None:
        """The policy version that an evaluation's trial measures, and that alone may play it; None in training."""
        return evaluated_version(self.purpose, self.slot)


class TrialDone(Message, frozen=True):
    """A finished trial: `body` is the encoded `Trial`, journalled as it came."""

    trial_id: str
    body: bytes


class TrialFailed(Message, frozen=True):
    """A trial that ended for a reason of ours (server, environment, actor): its slot is leased again."""

    trial_id: str
    reason: str


class Ack(Message, frozen=True):
    """These trials are on the gateway's disk."""

    trial_ids: tuple[str, ...]


class Nack(Message, frozen=True):
    """This trial was not accepted."""

    trial_id: str
    kind: NackKind
    reason: str


class Servers(Message, frozen=True):
    """The inference servers that may be used now, whatever version they hold; replaces the list sent before."""

    servers: tuple[ServerInfo, ...]
