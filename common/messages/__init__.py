"""Everything that travels over the run's ZeroMQ socket, as one tagged union.

The gateway binds a ROUTER; actors, inference hosts, the trainer and observers connect a DEALER each.

    anyone    -> gateway   Hello, Heartbeat, Goodbye          gateway -> anyone    Welcome | Reject, Heartbeat, Shutdown
    actor     -> gateway   TrialDone, TrialFailed             gateway -> actor     Lease, Ack, Nack, Servers
    actor,    -> gateway   ModelFilesRequest                  gateway -> both      ModelFiles
    host
    host      -> gateway   HostStatus,                        gateway -> host      WeightAnnouncement,
                           ManifestRequest, ChunkRequest                           WeightManifest, WeightChunk
    trainer   -> gateway   BatchRequest, BatchFailed,         gateway -> trainer   Batch
                           Published, UpdateReport,
                           Checkpointed
    observer  -> gateway   StatusRequest                      gateway -> observer  Status
    host      -> trainer   GroupJoin, GroupState              trainer -> host      GroupOffer, GroupUpdate, GroupOrder
                           (both ways through the gateway, which relays them)

A finished trial is resent until it is acknowledged; the gateway acknowledges after the journal's commit is on disk.
What the messages of weight delivery are made of is in `common.weights`.
"""

from __future__ import annotations

import msgspec

from lamer.common.messages.base import Message
from lamer.common.messages.broadcast import (
    GroupAction,
    GroupJoin,
    GroupOffer,
    GroupOrder,
    GroupStage,
    GroupState,
    GroupUpdate,
)
from lamer.common.messages.joining import (
    MAX_NAME,
    PROTOCOL_VERSION,
    Goodbye,
    Heartbeat,
    Hello,
    Reject,
    Role,
    Shutdown,
    Welcome,
    name_problem,
)
from lamer.common.messages.status import Phase, Status, StatusRequest
from lamer.common.messages.training import (
    Batch,
    BatchFailed,
    BatchRequest,
    Checkpointed,
    Metric,
    Published,
    UpdateReport,
)
from lamer.common.messages.trials import (
    Ack,
    Lease,
    Nack,
    NackKind,
    Sampling,
    ServerInfo,
    Servers,
    TrialDone,
    TrialFailed,
)
from lamer.common.messages.weights import (
    ChunkRequest,
    HostStatus,
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
)

__all__ = [
    "MAX_NAME",
    "MESSAGE_TYPES",
    "PROTOCOL_VERSION",
    "Ack",
    "AnyMessage",
    "Batch",
    "BatchFailed",
    "BatchRequest",
    "Checkpointed",
    "ChunkRequest",
    "Goodbye",
    "GroupAction",
    "GroupJoin",
    "GroupOffer",
    "GroupOrder",
    "GroupStage",
    "GroupState",
    "GroupUpdate",
    "Heartbeat",
    "Hello",
    "HostStatus",
    "Lease",
    "ManifestRequest",
    "Message",
    "Metric",
    "ModelFiles",
    "ModelFilesRequest",
    "Nack",
    "NackKind",
    "Phase",
    "Published",
    "Reject",
    "Role",
    "Sampling",
    "ServerInfo",
    "Servers",
    "Shutdown",
    "Status",
    "StatusRequest",
    "TrialDone",
    "TrialFailed",
    "UpdateReport",
    "WeightAnnouncement",
    "WeightChunk",
    "WeightManifest",
    "Welcome",
    "name_problem",
]

AnyMessage = (
    Hello
    | Welcome
    | Reject
    | Heartbeat
    | Goodbye
    | Shutdown
    | Lease
    | TrialDone
    | TrialFailed
    | Ack
    | Nack
    | Servers
    | HostStatus
    | WeightAnnouncement
    | ModelFilesRequest
    | ModelFiles
    | ManifestRequest
    | WeightManifest
    | ChunkRequest
    | WeightChunk
    | GroupJoin
    | GroupState
    | GroupOffer
    | GroupUpdate
    | GroupOrder
    | BatchRequest
    | BatchFailed
    | Batch
    | Published
    | UpdateReport
    | Checkpointed
    | StatusRequest
    | Status
)

MESSAGE_TYPES: tuple[type[msgspec.Struct], ...] = AnyMessage.__args__
