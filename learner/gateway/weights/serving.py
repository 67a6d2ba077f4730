"""Weights for hosts without a shared disk: what the learner's side sends over the run's socket.

    manifest      what a host has to fetch to come from the weights it holds to those it wants
    chunk         a piece of that
    model_files   what lies beside streamed weights: configuration, tokenizer

A payload (`learner.gateway.weights.payloads`) is made once, by threads, for all hosts that ask for the same step, and
kept as a file while hosts may fetch it. Each host paces itself by how many chunks it asks for, so none waits for a
slower one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput, LamerError
from lamer.common.messages import (
    ChunkRequest,
    ManifestRequest,
    ModelFiles,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
)
from lamer.learner.gateway.weights.announcing import Announcer
from lamer.learner.gateway.weights.model_files import read_model_files
from lamer.learner.gateway.weights.payloads import Payload, Stopped, make_payload

log = logging.getLogger("lamer.gateway")

KEPT_PAYLOADS = 4
IN_USE_SECONDS = 300.0
MAX_CHUNK_BYTES = 16 * 1024 * 1024
_MAKERS = 2
_ENCODERS = 4


@dataclass(slots=True)
class _Offer:
    """A payload that hosts fetch, what belongs beside the weights, and when on the loop's clock one last asked."""

    payload: Payload
    companions: ModelFiles
    companions_digest: str
    used_at: float


class StreamServer:
    """Makes and serves payloads; belongs to the gateway's event loop, does its work in threads."""

    def __init__(self, weights: Announcer, folder: Path) -> None:
        """folder: where payloads are kept while hosts may fetch them; what is in it is removed."""
        self._weights = weights
        self._folder = folder
        self._making: dict[tuple[str, str], asyncio.Task[_Offer]] = {}
        self._offers: dict[tuple[str, str], _Offer] = {}
        self._stop = threading.Event()
        self._makers = ThreadPoolExecutor(_MAKERS, "weight-stream")
        self._encoders = ThreadPoolExecutor(min(_ENCODERS, os.cpu_count() or 1), "weight-blocks")
        shutil.rmtree(folder, ignore_errors=True)

    async def manifest(self, request: ManifestRequest) -> WeightManifest:
        """How to come to the weights asked for. One that can't be served has an `error`."""
        try:
            offer = await self._offer(request)
        except (LamerError, OSError) as error:
            return WeightManifest(request.identity, "", "", 0, (), error=f"these weights can't be had: {error}")
        payload = offer.payload
        return WeightManifest(
            payload.identity, payload.base, payload.digest, payload.size, payload.files, offer.companions_digest
        )

    async def chunk(self, request: ChunkRequest) -> WeightChunk:
        """A piece of a payload. One that can't be served has an `error`."""
        offers = [offer for offer in self._offers.values() if offer.payload.digest == request.payload]
        try:
            if not offers:
                raise BadInput("the learner does not hold this payload any more")
            for offer in offers:
                offer.used_at = asyncio.get_running_loop().time()
            data = await asyncio.to_thread(_read, offers[0].payload, request)
        except (BadInput, OSError) as error:
            return WeightChunk(request.payload, request.offset, b"", error=str(error))
        return WeightChunk(request.payload, request.offset, data)

    def model_files(self, digest: str) -> ModelFiles | None:
        """What a manifest named as `companions`."""
        offers = (offer for offer in self._offers.values() if offer.companions_digest == digest)
        return next((offer.companions for offer in offers), None)

    async def close(self) -> None:
        """End what is being made and remove what was kept."""
        self._stop.set()
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        await asyncio.to_thread(self._makers.shutdown)
        await asyncio.to_thread(self._encoders.shutdown)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _offer(self, request: ManifestRequest) -> _Offer:
        """The payload for this step: kept, being made, or made now."""
        wanted = self._weights.find(request.identity)
        if wanted is None:
            raise BadInput(f"weights {request.identity or '(none)'} were not published by this learner")
        base = self._weights.find(request.base) if request.base else None
        if base is not None and not await asyncio.to_thread(_is_whole, base):
            base = None
        step = (base.identity if base else "", wanted.identity)
        offer = self._offers.get(step)
        if offer is None:
            making = self._making.get(step)
            if making is None:
                making = asyncio.create_task(self._make(wanted, base), name="weight payload")
                self._making[step] = making
                making.add_done_callback(lambda done: self._made(step, done))
            offer = await asyncio.shield(making)
        offer.used_at = asyncio.get_running_loop().time()
        self._drop_unused()
        return offer

    def _made(self, step: tuple[str, str], making: asyncio.Task[_Offer]) -> None:
        """Keep what was made. Who waits for it is told of a failure; so is the log, in case that nobody does."""
        del self._making[step]
        if making.cancelled():
            return
        failure = making.exception()
        if failure is None:
            self._offers[step] = making.result()
        elif not isinstance(failure, Stopped):
            log.error("the weights %s can't be streamed: %s", step[1], failure)

    async def _make(self, wanted: WeightAnnouncement, base: WeightAnnouncement | None) -> _Offer:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._stop.is_set():
            raise Stopped("the learner is closing")
        companions = await loop.run_in_executor(self._makers, read_model_files, Path(wanted.path))
        digest = companions.digest
        payload = await loop.run_in_executor(
            self._makers, make_payload, wanted, base, self._folder, self._encoders, self._stop
        )
        size = sum(file.size for file in wanted.files)
        log.info(
            "policy version %d for streaming %s: %d of %d bytes, made in %.2f s",
            *(wanted.version, f"onto version {base.version}" if base else "in full", payload.size, size),
            loop.time() - began,
        )
        return _Offer(payload, self.model_files(digest) or companions, digest, loop.time())

    def _drop_unused(self) -> None:
        """Keep the last payloads and those that a host fetched lately."""
        now = asyncio.get_running_loop().time()
        for step, offer in sorted(self._offers.items(), key=lambda item: item[1].used_at):
            if len(self._offers) <= KEPT_PAYLOADS or now - offer.used_at < IN_USE_SECONDS:
                return
            del self._offers[step]
            if all(other.payload.path != offer.payload.path for other in self._offers.values()):
                offer.payload.path.unlink(missing_ok=True)


def _is_whole(weights: WeightAnnouncement) -> bool:
    """Whether the files are still there in their sizes."""
    folder = Path(weights.path)
    try:
        return all((folder / file.name).stat().st_size == file.size for file in weights.files)
    except OSError:
        return False


def _read(payload: Payload, request: ChunkRequest) -> bytes:
    if not 0 < request.size <= MAX_CHUNK_BYTES or not 0 <= request.offset <= payload.size - request.size:
        raise BadInput(f"there are no {request.size} bytes at {request.offset} of a payload of {payload.size} bytes")
    with payload.path.open("rb") as file:
        file.seek(request.offset)
        return file.read(request.size)
