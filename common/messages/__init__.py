"""Everything that travels over the run's ZeroMQ socket, as one tagged union.

The gateway binds a ROUTER; actors, inference hosts, the trainer and observers connect a DEALER each.

    anyone    -> gateway   Hello, Heartbeat, Goodbye          gateway -> anyone    Welcome | Reject, Heartbeat, Shutdown
    actor     -> gateway   TrialDone, TrialFailed             gateway -> actor     Lease, Ack, Nack, Servers
    actor,    -> gateway   ModelFilesRequest                  gateway -> both      ModelFiles
    host
    host      -> gateway   HostStatus,                        gateway -> host      WeightAnnouncement,
                           ManifestRequest, ChunkRequest                           WeightManifest, WeightChunk
    trainer   -> gateway   BatchRequest, Published,           gateway -> trainer   Batch
                           UpdateReport, Checkpointed
    observer  -> gateway   StatusRequest                      gateway -> observer  Status
    host      -> trainer   GroupJoin, GroupState              trainer -> host      GroupOffer, GroupUpdate, GroupOrder
                           (both ways through the gateway, which relays them)

A finished trial is resent until it is acknowledged; the gateway acknowledges after the journal's commit is on disk.
What the messages of weight delivery are made of is in `common.weights`.
"""

from __future__ import annotations

import enum

import msgspec

from lamer.common.model_files import model_files_digest
from lamer.common.records import Purpose, Record, Task
from lamer.common.weights import Bucket, ModelFingerprint, NamedFile, StreamedFile, WeightFile, identity_of

PROTOCOL_VERSION = 1


class Role(enum.StrEnum):
    """What a process that says Hello is."""

    ACTOR = "actor"
    HOST = "host"
    TRAINER = "trainer"
    OBSERVER = "observer"


class NackKind(enum.StrEnum):
    """Why a trial was not accepted: resend it later, never (kept in quarantine), or never because it came too late."""

    RETRY = "retry"
    INVALID = "invalid"
    STALE = "stale"


class MemoryMode(enum.StrEnum):
    """What later episodes of a trial are shown of the earlier ones."""

    NONE = "none"
    REFLECTION = "reflection"
    TRAJECTORY = "trajectory"
    BOTH = "both"

    @property
    def has_reflections(self) -> bool:
        """Whether the policy is asked to reflect between two episodes."""
        return self in (MemoryMode.REFLECTION, MemoryMode.BOTH)

    @property
    def has_trajectories(self) -> bool:
        """Whether past actions and observations are shown."""
        return self in (MemoryMode.TRAJECTORY, MemoryMode.BOTH)


class Phase(enum.StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    EVALUATING = "evaluating"
    TRAINING = "training"
    DONE = "done"
    FAILED = "failed"


class Message(Record, frozen=True, tag_field="type", tag=True):
    """Base of all messages; the tag on the wire is the class name."""


class Sampling(Record, frozen=True):
    """How responses are sampled. top_k 0 and top_p 1 mean no restriction."""

    temperature: float
    top_p: float
    top_k: int
    max_response_tokens: int
    max_reflection_tokens: int


class ServerInfo(Record, frozen=True):
    """An inference server as actors see it. `policy_version` is the version it was verified to hold.

    running, waiting: requests there when its host last asked, from all actors together. report: counts the host's
    reports, so that figures sent again are known for old ones.
    """

    name: str
    url: str
    api_key: str
    policy_version: int
    max_running: int
    running: int = 0
    waiting: int = 0
    report: int = 0


class Hello(Message, frozen=True):
    """First message of every connection and of every reconnection.

    capacity: trials an actor runs at once, 0 for the other roles. run and config_hash: what the sender expects, "" for
    whatever the gateway runs. fingerprint: of the model folder that a host was given, None where it was given none.
    instance: random, the same on every reconnection of one process (`common.session` fills it in).
    """

    protocol_min: int
    protocol_max: int
    role: Role
    name: str
    run: str = ""
    config_hash: str = ""
    capacity: int = 0
    fingerprint: ModelFingerprint | None = None
    instance: str = ""


class Welcome(Message, frozen=True):
    """The gateway accepted a Hello.

    epoch: changes when the gateway restarts. config: the run's resolved configuration as JSON (`common.config`).
    model_path: folder of the policy's tokenizer and first weights. credit_trials / credit_bytes: what may be
    unacknowledged. dead_after_seconds: silence after which either end takes the other for dead. fingerprint: of the
    policy's model, None where the learner has none.
    """

    protocol: int
    epoch: int
    run: str
    config: str
    config_hash: str
    policy_version: int
    model_path: str
    credit_trials: int
    credit_bytes: int
    heartbeat_seconds: float
    dead_after_seconds: float = 20.0
    fingerprint: ModelFingerprint | None = None


class Reject(Message, frozen=True):
    """The gateway refused a Hello; the sender exits with code 2 and prints `reason`."""

    reason: str


class Heartbeat(Message, frozen=True):
    """Sent from the event loop by both ends, so that its absence means a dead or blocked process."""

    in_flight: int = 0


class Goodbye(Message, frozen=True):
    """The sender leaves on purpose: its leases are given to others at once."""

    reason: str


class Shutdown(Message, frozen=True):
    """The run is over: exit with `exit_code`."""

    reason: str
    exit_code: int


class Lease(Message, frozen=True):
    """Play this trial within `seconds` (counted on the receiver's monotonic clock).

    slot: of an evaluation, the policy version that it measures; no other version may play it. min_version: of training,
    the version that was applied when the group was admitted; older tokens could be too old for its place in a batch.
    """

    trial_id: str
    group_id: int
    slot: int
    purpose: Purpose
    task: Task
    episodes: int
    memory: MemoryMode
    sampling: Sampling
    seconds: float
    min_version: int = 0


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


class HostStatus(Message, frozen=True):
    """A host's server: sent when it is ready, after every weight update, with every heartbeat and when it fails.

    pause_seconds / update_seconds: of the last weight update. download_seconds / download_bytes: of what was fetched
    for it, while generation went on. error: "" or what went wrong; a server that is ready can be used all the same.
    """

    server: ServerInfo
    is_ready: bool
    pause_seconds: float = 0.0
    update_seconds: float = 0.0
    download_seconds: float = 0.0
    download_bytes: int = 0
    error: str = ""


class WeightAnnouncement(Message, frozen=True):
    """Policy version `version` lies in folder `path` of the learner's machine and consists of `files`.

    lineage: goes up when the trainer goes back to a checkpoint; within one, versions only rise, and a host refuses an
    older one.
    """

    version: int
    path: str
    files: tuple[WeightFile, ...]
    lineage: int = 0

    @property
    def identity(self) -> str:
        """What tells these weights from any others (`common.weights.identity_of`)."""
        return identity_of(self.files)


class ModelFilesRequest(Message, frozen=True):
    """An actor or a host without the model's folder asks for all of it but the weights.

    digest: `ModelFiles.digest` of those that belong to streamed weights, "" for those of the run's model.
    """

    digest: str = ""


class ModelFiles(Message, frozen=True):
    """The model folder's files other than weights: configuration, tokenizer, chat template."""

    files: tuple[NamedFile, ...]

    @property
    def digest(self) -> str:
        """What tells these files from any others: 32 hexadecimal digits."""
        return model_files_digest(self.files)


class ManifestRequest(Message, frozen=True):
    """A host asks how to come to the weights `identity`. base: identity of those it holds, "" for a full copy."""

    identity: str
    base: str = ""


class WeightManifest(Message, frozen=True):
    """How the weights `identity` are made: `size` bytes of the payload `payload`, applied to `base` ("": to nothing).

    payload: BLAKE2b-128 of its bytes, hexadecimal. companions: `ModelFiles.digest` of what belongs beside the weights.
    error: "" or why these weights can't be had; nothing else counts then.
    """

    identity: str
    base: str
    payload: str
    size: int
    files: tuple[StreamedFile, ...]
    companions: str = ""
    error: str = ""


class ChunkRequest(Message, frozen=True):
    """A host asks for the bytes of a payload from `offset` on, `size` of them."""

    payload: str
    offset: int
    size: int


class WeightChunk(Message, frozen=True):
    """Bytes of a payload. error: "" or why they can't be had, as after the learner has dropped the payload."""

    payload: str
    offset: int
    data: bytes
    error: str = ""


class GroupJoin(Message, frozen=True):
    """A host whose server has `ranks` processes wants weights by collective broadcast. host: filled by the gateway."""

    backend: str
    ranks: int
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
    version: int = -1
    reason: str = ""
    host: str = ""


class GroupOffer(Message, frozen=True):
    """The trainer, rank 0, asks host `host` to join process group `group`; it replaces any group before it."""

    host: str
    group: str
    backend: str
    master_address: str
    master_port: int
    rank_offset: int
    world_size: int


class GroupUpdate(Message, frozen=True):
    """The trainer will broadcast `version` to group `group`, bucket by bucket, as soon as all members are ready."""

    host: str
    group: str
    version: int
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
    version: int = -1
    reason: str = ""


class BatchRequest(Message, frozen=True):
    """The trainer, holding `policy_version`, waits for the next batch."""

    policy_version: int


class Batch(Message, frozen=True):
    """The batch of update `step` (1, 2, ...) is claimed in the journal; the trainer reads its trials there.

    trial_ids: sorted. policy_version: the version trained from, step - 1.
    """

    step: int
    policy_version: int
    trial_ids: tuple[str, ...]


class Published(Message, frozen=True):
    """The trainer wrote policy version `version` to folder `path`."""

    version: int
    path: str
    files: tuple[WeightFile, ...]


class Metric(Record, frozen=True, array_like=True):
    """One measured figure; names are the ones shown in MLflow."""

    name: str
    value: float


class UpdateReport(Message, frozen=True):
    """What the trainer measured in update `step`."""

    step: int
    metrics: tuple[Metric, ...]


class Checkpointed(Message, frozen=True):
    """A durable checkpoint covers every batch up to and including `step`."""

    step: int
    path: str


class StatusRequest(Message, frozen=True):
    """An observer asks how the run is."""


class Status(Message, frozen=True):
    """How the run is: what the live panel shows. Rates are over the last ten seconds.

    pass_at: pass@1, pass@2, ... of the trials of the last update. weight_age: seconds since the servers last changed
    weights.
    """

    run: str
    phase: Phase
    update: int
    updates: int
    pass_at: tuple[float, ...]
    trials: int
    trials_per_second: float
    tokens_per_second: float
    in_flight: int
    staleness_mean: float
    staleness_max: int
    weight_age: float
    policy_version: int
    actors: int
    servers: int
    dropped: int
    evaluated: int
    evaluations: int
    seconds: float
    mlflow_url: str = ""


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
    | Batch
    | Published
    | UpdateReport
    | Checkpointed
    | StatusRequest
    | Status
)

MESSAGE_TYPES: tuple[type[msgspec.Struct], ...] = AnyMessage.__args__
