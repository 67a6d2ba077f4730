"""Between gateway and trainer: batches out, policy versions and reports in."""

from __future__ import annotations

from lamer.common.messages.base import Message
from lamer.common.records import Int64, Record
from lamer.common.weights import WeightFile


class BatchRequest(Message, frozen=True):
    """The trainer, holding `policy_version`, waits for the next batch."""

    policy_version: Int64


class Batch(Message, frozen=True):
    """The batch of update `step` (1, 2, ...) is claimed in the journal; the trainer reads its trials there.

    trial_ids: sorted. policy_version: the version trained from, step - 1.
    """

    step: Int64
    policy_version: Int64
    trial_ids: tuple[str, ...]


class BatchFailed(Message, frozen=True):
    """The trainer could not train on the batch of update `step` and goes back to its last checkpoint."""

    step: Int64
    reason: str


class Published(Message, frozen=True):
    """The trainer wrote policy version `version` to folder `path`."""

    version: Int64
    path: str
    files: tuple[WeightFile, ...]


class Metric(Record, frozen=True, array_like=True):
    """One measured figure; names are the ones shown in MLflow."""

    name: str
    value: float


class UpdateReport(Message, frozen=True):
    """What the trainer measured in update `step`."""

    step: Int64
    metrics: tuple[Metric, ...]


class Checkpointed(Message, frozen=True):
    """A durable checkpoint covers every batch up to and including `step`."""

    step: Int64
    path: str
