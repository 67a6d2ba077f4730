"""The weights' journey to a host: announced, served, fetched; and what hosts report."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lamer.common.messages.base import Message
from lamer.common.messages.trials import ServerInfo
from lamer.common.model_files import model_files_digest
from lamer.common.records import LONGEST_SECONDS, Int64
from lamer.common.weights import NamedFile, StreamedFile, WeightFile, identity_of

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=LONGEST_SECONDS)]
"""Of a measurement: a finite number."""


class HostStatus(Message, frozen=True):
    """A host's server: sent when it is ready, after every weight update, with every heartbeat and when it fails.

    pause_seconds / update_seconds: of the last weight update. download_seconds / download_bytes: of what was fetched
    for it, while generation went on. error: "" or what went wrong; a server that is ready can be used all the same.
    """

    server: ServerInfo
    is_ready: bool
    pause_seconds: Seconds = 0.0
    update_seconds: Seconds = 0.0
    download_seconds: Seconds = 0.0
    download_bytes: Int64 = 0
    error: str = ""


class WeightAnnouncement(Message, frozen=True):
    """Policy version `version` lies in folder `path` of the learner's machine and consists of `files`.

    lineage: goes up when the trainer goes back to a checkpoint; within one, versions only rise, and a host refuses an
    older one.
    """

    version: Int64
    path: str
    files: tuple[WeightFile, ...]
    lineage: Int64 = 0

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
    size: Int64
    files: tuple[StreamedFile, ...]
    companions: str = ""
    error: str = ""


class ChunkRequest(Message, frozen=True):
    """A host asks for the bytes of a payload from `offset` on, `size` of them."""

    payload: str
    offset: Int64
    size: Int64


class WeightChunk(Message, frozen=True):
    """Bytes of a payload. error: "" or why they can't be had, as after the learner has dropped the payload."""

    payload: str
    offset: Int64
    data: bytes
    error: str = ""
