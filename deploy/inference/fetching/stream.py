"""Weights over the run's socket, for a host without a disk in common with the learner.

    ManifestRequest    -> WeightManifest    how to come from what the cache holds to what is wanted
    ModelFilesRequest  -> ModelFiles        configuration and tokenizer, where the cache has none such
    ChunkRequest ...   -> WeightChunk ...   the payload, a window of chunks asked for at a time

A payload is collected in a file, so that a lost connection, or a new process, goes on where the last one stopped. What
was asked is asked again after a reconnection, and when nothing came for a while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from lamer.common.errors import BadInput
from lamer.common.messages import (
    AnyMessage,
    ChunkRequest,
    ManifestRequest,
    ModelFiles,
    ModelFilesRequest,
    WeightAnnouncement,
    WeightChunk,
    WeightManifest,
    Welcome,
)
from lamer.deploy.inference.fetching.base import DeliveryFailed, Fetched, Mail
from lamer.deploy.inference.fetching.cache import HeldWeights, WeightCache
from lamer.deploy.inference.fetching.checks import check_names
from lamer.deploy.inference.fetching.rebuild import Damaged, Parts, check_manifest, rebuild

log = logging.getLogger("lamer.host")

CHUNK_BYTES = 4 * 1024 * 1024
WINDOW = 8
ANSWER_SECONDS = 30.0
MAX_SILENCES = 5
"""How often what was asked is asked again, after twice the time each, before the learner is given up: 15 minutes."""
MAX_MANIFESTS = 3
MOST_ANSWERS = 8 * WINDOW
"""Answers that may wait: those asked for, asked for again, and a few more. What is given up is asked for again."""
_ANSWERS = (WeightManifest, WeightChunk, ModelFiles, Welcome)

Answer = TypeVar("Answer", WeightManifest, ModelFiles)
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class _PayloadGone(Exception):
    """The learner does not hold the payload any more."""


class StreamDelivery:
    """Fetches weights into a cache folder, as differences from those fetched before."""

    def __init__(self, cache: Path, mail: Mail, anchor_every: int, answer_seconds: float = ANSWER_SECONDS) -> None:
        """cache: kept across restarts; belongs to this host alone. anchor_every: versions between two full copies.

        anchor_every 0: never. answer_seconds: silence after which what was asked is asked again.
        """
        self._cache = WeightCache(cache)
        self._mail = mail
        self._anchor_every = anchor_every
        self._answer_seconds = answer_seconds
        self._turn = asyncio.Lock()
        self._answers: asyncio.Queue[AnyMessage] | None = None
        self._silences = 0
        self._received = 0

    async def fetch(self, wanted: WeightAnnouncement, *, is_full: bool = False) -> Fetched:
        """The weights as a folder of the cache. A later call waits until an earlier one was cancelled or is done.

        Raises:
            DeliveryFailed: they can't be had, or are damaged.
        """
        async with self._turn:
            began = time.monotonic()
            self._answers, self._silences, self._received = asyncio.Queue(MOST_ANSWERS), 0, 0
            try:
                folder = await self._fetch(wanted, is_full)
            except OSError as error:
                raise DeliveryFailed(f"the cache can't take policy version {wanted.version}: {error}") from error
            finally:
                self._answers = None
            return Fetched(folder, time.monotonic() - began, self._received)

    def take(self, message: AnyMessage) -> None:
        """An answer of the gateway, or Welcome after a reconnection."""
        if self._answers is None or not isinstance(message, _ANSWERS):
            return
        if self._answers.full():  # more than was asked for
            log.warning("a %s that nobody waits for is given up", type(message).__name__)
        else:
            self._answers.put_nowait(message)

    async def _fetch(self, wanted: WeightAnnouncement, is_full: bool) -> Path:
        check_names(wanted.files)
        await _in_thread(self._cache.sweep)
        folder = None if is_full else await _in_thread(self._cache.find, wanted)
        if folder is None:
            is_anchor = self._anchor_every > 0 and wanted.version % self._anchor_every == 0
            held = () if is_full or is_anchor else await _in_thread(self._cache.held)
            folder = await self._make(wanted, held[0] if held else None)
        await _in_thread(self._cache.keep, folder)
        return folder

    async def _make(self, wanted: WeightAnnouncement, base: HeldWeights | None) -> Path:
        """Make the folder on top of `base`; if that is damaged, in full."""
        for _ in range(MAX_MANIFESTS):
            request = ManifestRequest(wanted.identity, base.identity if base else "")
            manifest = await self._ask(request, WeightManifest, lambda answer: answer.identity == wanted.identity)
            if manifest.error:
                raise DeliveryFailed(f"policy version {wanted.version}: {manifest.error}")
            await _in_thread(check_manifest, manifest, wanted, request.base)
            try:
                return await self._make_from(manifest, wanted, base)
            except _PayloadGone as error:
                log.info("the manifest of policy version %d is asked for again: %s", wanted.version, error)
            except Damaged as error:
                if not manifest.base:
                    raise
                log.warning("policy version %d is fetched in full: %s", wanted.version, error)
                base = None
        raise DeliveryFailed(f"policy version {wanted.version} could not be fetched in {MAX_MANIFESTS} tries")

    async def _make_from(self, manifest: WeightManifest, wanted: WeightAnnouncement, base: HeldWeights | None) -> Path:
        companions = await self._companions(manifest.companions)
        payload = await _in_thread(self._cache.partial, manifest.payload, manifest.size)
        await self._download(manifest, payload)
        target = self._cache.place(wanted)
        parts = Parts(manifest, payload, base.folder if base and manifest.base else None, companions)
        stop = threading.Event()
        try:
            await _in_thread(rebuild, parts, target, stop, stop=stop)
        except DeliveryFailed:
            payload.unlink()
            raise
        payload.unlink()
        return target

    async def _companions(self, digest: str) -> Path | None:
        """The folder of the files beside the weights, asked for where the cache has none such."""
        if not digest:
            return None
        kept = self._cache.companions(digest)
        if kept is not None:
            return kept
        answer = await self._ask(ModelFilesRequest(digest), ModelFiles, lambda files: files.digest == digest)
        self._received += sum(len(file.data) for file in answer.files)
        try:
            return await _in_thread(self._cache.keep_companions, answer.files)
        except BadInput as error:
            raise DeliveryFailed(str(error)) from error

    async def _ask(self, request: AnyMessage, kind: type[Answer], fits: Callable[[Answer], bool]) -> Answer:
        """Ask until the answer comes."""
        while True:
            await self._mail(request)
            while (message := await self._next()) is not None:
                if isinstance(message, kind) and fits(message):
                    return message

    async def _next(self) -> AnyMessage | None:
        """The next answer; None when what was asked must be asked again.

        Raises:
            DeliveryFailed: that happened too often without a word from the learner.
        """
        assert self._answers is not None
        try:
            message = await asyncio.wait_for(self._answers.get(), self._answer_seconds * 2**self._silences)
        except TimeoutError:
            self._silences += 1
            if self._silences == MAX_SILENCES:
                raise DeliveryFailed(f"the learner was asked {MAX_SILENCES} times and did not answer") from None
            return None
        self._silences = 0
        return None if isinstance(message, Welcome) else message

    async def _download(self, manifest: WeightManifest, target: Path) -> None:
        """Complete the file `target`, which holds the payload's first bytes, or nothing."""
        with target.open("ab") as file:
            done = asked = file.tell()
            waiting: dict[int, bytes | None] = {}
            while done < manifest.size:
                while len(waiting) < WINDOW and asked < manifest.size:
                    waiting[asked] = None
                    await self._mail(_chunk_request(manifest, asked))
                    asked += CHUNK_BYTES
                message = await self._next()
                if message is None:
                    for offset in [offset for offset, data in waiting.items() if data is None]:
                        await self._mail(_chunk_request(manifest, offset))
                elif isinstance(message, WeightChunk) and message.payload == manifest.payload:
                    self._accept(message, manifest, waiting)
                while data := waiting.get(done):
                    del waiting[done]
                    await _in_thread(file.write, data)
                    done += len(data)

    def _accept(self, chunk: WeightChunk, manifest: WeightManifest, waiting: dict[int, bytes | None]) -> None:
        """Put a chunk that is waited for into its place."""
        if chunk.offset not in waiting or waiting[chunk.offset] is not None:
            return
        if chunk.error:
            raise _PayloadGone(chunk.error)
        expected = _chunk_request(manifest, chunk.offset).size
        if len(chunk.data) != expected:
            raise DeliveryFailed(f"a chunk of {len(chunk.data)} bytes came where {expected} were asked for: refused")
        self._received += expected
        waiting[chunk.offset] = chunk.data


def _chunk_request(manifest: WeightManifest, offset: int) -> ChunkRequest:
    return ChunkRequest(manifest.payload, offset, min(CHUNK_BYTES, manifest.size - offset))


async def _in_thread(
    work: Callable[[*Arguments], Result], *arguments: *Arguments, stop: threading.Event | None = None
) -> Result:
    """Run blocking work in a thread. When cancelled, wait until it is done; `stop` is set to make that soon."""
    running = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await asyncio.gather(running, return_exceptions=True)
        raise
