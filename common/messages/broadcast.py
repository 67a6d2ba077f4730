"""Weights by collective broadcast: what trainer and hosts agree on, through the gateway, which relays it."""

from __future__ import annotations

import enum

from lamer.common.messages.base import Message
from lamer.common.records import Int64
from lamer.common.weights import Bucket


class GroupJoin(Message, frozen=True):
    """A host whose server has `ranks` processes wants weights by collective broadcast. host: filled by the gateway."""

    backend: str
    ranks: Int64
    host: str = ""


class GroupStage(enum.StrEnum):
    """How far a member of a weight-update group is.

    DECLINED: it does not want this version, but stays a member. FAILED: it is none any more. LEFT: the gateway says so
    of a host that went away.
    """

    JOINED = "joined"
    READY = "ready"
    APPLIED = "applied"
    DECLINED = "declined"
    FAILED = "failed"
    LEFT = "left"


class GroupState(Message, frozen=True):
    """A host tells the trainer how far it is with `version` in group `group`. host: filled by the gateway."""

    group: str
    stage: GroupStage
    version: Int64 = -1
    reason: str = ""
    host: str = ""


class GroupOffer(Message, frozen=True):
    """The trainer, rank 0, asks host `host` to join process group `group`; it replaces any group before it."""

    host: str
    group: str
    backend: str
    master_address: str
    master_port: Int64
    rank_offset: Int64
    world_size: Int64


class GroupUpdate(Message, frozen=True):
    """The trainer will broadcast `version` to group `group`, bucket by bucket, as soon as all members are ready."""

    host: str
    group: str
    version: Int64
    identity: str
    buckets: tuple[Bucket, ...]


class GroupAction(enum.StrEnum):
    """GO: the broadcast begins. WITHDRAW: it will not take place. LEAVE: the host is no member any more."""

    GO = "go"
    WITHDRAW = "withdraw"
    LEAVE = "leave"


class GroupOrder(Message, frozen=True):
    """The trainer tells a member what follows from the members' answers to GroupUpdate, or that it is none.

    version: of the update, -1 for LEAVE outside of one. reason: why not, "" for GO.
    """

    host: str
    group: str
    action: GroupAction
    version: Int64 = -1
    reason: str = ""
