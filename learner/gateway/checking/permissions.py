"""Who may say what: the messages that the gateway takes, by the role that a peer's key has."""

from __future__ import annotations

from lamer.common.messages import (
    BatchFailed,
    BatchRequest,
    Checkpointed,
    ChunkRequest,
    Goodbye,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupState,
    GroupUpdate,
    Heartbeat,
    Hello,
    HostStatus,
    ManifestRequest,
    Message,
    ModelFilesRequest,
    Published,
    Role,
    StatusRequest,
    TrialDone,
    TrialFailed,
    UpdateReport,
)

_ANYONE = frozenset(Role)
_ACTOR, _HOST, _TRAINER = frozenset({Role.ACTOR}), frozenset({Role.HOST}), frozenset({Role.TRAINER})

SENDERS: dict[type[Message], frozenset[Role]] = {
    Hello: _ANYONE,
    Heartbeat: _ANYONE,
    Goodbye: _ANYONE,
    TrialDone: _ACTOR,
    TrialFailed: _ACTOR,
    ModelFilesRequest: _ACTOR | _HOST,
    HostStatus: _HOST,
    ManifestRequest: _HOST,
    ChunkRequest: _HOST,
    GroupJoin: _HOST,
    GroupState: _HOST,
    GroupOffer: _TRAINER,
    GroupUpdate: _TRAINER,
    GroupOrder: _TRAINER,
    BatchRequest: _TRAINER,
    BatchFailed: _TRAINER,
    Published: _TRAINER,
    UpdateReport: _TRAINER,
    Checkpointed: _TRAINER,
    StatusRequest: frozenset({Role.OBSERVER}),
}
"""Whose message it is. One that is not here is the gateway's own: nobody may send it."""


def may_send(role: Role, message: Message) -> bool:
    """Whether a peer of this role may send this message."""
    return role in SENDERS.get(type(message), frozenset())
