"""Applying a policy version to a running server, in each way of treating what it is generating.

    in_place   held, and goes on over the keys and values of the old weights
    retract    held, and computed anew by the new weights
    abort      ended: their clients get the tokens so far, and resume
    wait       running requests end first, new ones are held back meanwhile

The first two pause the server around the load. The others leave the holding back to the server's own lock, which lets
no request in between its last one and the load: SGLang's abort pause looks once a second whether all have ended.
Whatever happens, the server goes on afterwards; the caller takes a version for applied only when this returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from lamer.common.errors import LamerError
from lamer.common.messages import WeightAnnouncement
from lamer.common.versions import to_weight_version
from lamer.deploy.inference.engines.base import Engine, Idling
from lamer.deploy.inference.engines.client import ServerClient, ServerRefused
from lamer.deploy.inference.fetching.base import DeliveryFailed, LiveDelivery, ServerStuck, Withdrawn

DRAIN_AHEAD_SECONDS = 0.02
"""Head start of the operation that should get its turn before the load."""
ABORT_AGAIN_SECONDS = 0.1
FLUSH_TRIES = 3
_NOT_FLUSHED = "cache was not flushed"
RESUME_SECONDS = 30.0
PAUSED_MODES = ("in_place", "retract")
SERVER_ERRORS = (ServerRefused, DeliveryFailed, OSError, aiohttp.ClientError)
"""What a weight update may raise when the server or the weights are at fault; a timeout is an OSError."""


class HalfUpdated(LamerError):
    """The server may hold a part of new weights: it must not generate before it has a whole folder again."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class UpdateTimes:
    """Seconds of a weight update: in all, and those in which new requests were held back."""

    update: float = 0.0
    pause: float = 0.0


async def apply_folder(engine: Engine, mode: str, weights: WeightAnnouncement, folder: Path) -> UpdateTimes:
    """Load a checked folder, and see that the server says so. mode: one that `Engine.update_mode` gave.

    Raises:
        ServerRefused, OSError, ClientError: it failed; the server goes on with what it had, or is dead.
    """
    client, began = engine.client, time.monotonic()
    if mode in PAUSED_MODES:
        async with paused(client, mode):
            await _load(client, weights, folder, flush_cache=mode != "in_place")
    else:
        await _load_unpaused(engine, weights, folder, aborts=mode == "abort")
    pause = time.monotonic() - began
    await verify(client, weights)
    return UpdateTimes(update=time.monotonic() - began, pause=pause)


async def apply_live(
    engine: Engine, mode: str, weights: WeightAnnouncement, live: LiveDelivery, fetch: Callable[[], Awaitable[Path]]
) -> UpdateTimes:
    """Put weights in without a folder; where that fails midway, load the folder that `fetch` gives, still paused.

    Raises:
        Withdrawn: the server goes on with what it had. HalfUpdated: it could not be given a whole folder; it was told
        to abort everything. ServerRefused, OSError, ClientError: it is dead, or does not hold what it should.
    """
    client, began = engine.client, time.monotonic()
    flush_cache = mode != "in_place"
    async with paused(client, mode):
        try:
            await live.apply(weights, client, flush_cache)
        except (Withdrawn, ServerStuck):
            raise
        except SERVER_ERRORS as error:
            await _repair(client, weights, fetch, flush_cache, error)
    pause = time.monotonic() - began
    await verify(client, weights)
    return UpdateTimes(update=time.monotonic() - began, pause=pause)


async def verify(client: ServerClient, weights: WeightAnnouncement) -> None:
    """The server says that it holds the announced version.

    Raises:
        ServerRefused: it says another.
    """
    held, wanted = (await client.model_info()).weight_version, to_weight_version(weights.version)
    if held != wanted:
        raise ServerRefused(f"the server says that it holds version {held!r}, not {wanted}")


@asynccontextmanager
async def paused(client: ServerClient, mode: str) -> AsyncIterator[None]:
    """Generation stands still in the block, and goes on after it, also when the pause itself went wrong."""
    try:
        await client.pause(mode)
        yield
    finally:
        async with asyncio.timeout(RESUME_SECONDS):
            await client.resume()


async def _load(client: ServerClient, weights: WeightAnnouncement, folder: Path, *, flush_cache: bool) -> None:
    await client.load_weights(str(folder), to_weight_version(weights.version), flush_cache=flush_cache)


async def _load_unpaused(engine: Engine, weights: WeightAnnouncement, folder: Path, *, aborts: bool) -> None:
    """Load with nothing in flight: what runs is ended, or waited for."""
    client = engine.client
    if engine.idling is Idling.PAUSE:
        async with paused(client, "abort"):
            await _load(client, weights, folder, flush_cache=True)
        return
    draining: asyncio.Task[None] | None = None
    if engine.idling is Idling.DRAIN:
        draining = asyncio.create_task(client.drain())
        await asyncio.wait({draining}, timeout=DRAIN_AHEAD_SECONDS)
    loading = asyncio.create_task(_load_flushing(client, weights, folder, aborts))
    try:
        if aborts and draining is not None:
            await _abort_until(loading, client)
        await loading
    finally:
        left = [task for task in (loading, draining) if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _load_flushing(client: ServerClient, weights: WeightAnnouncement, folder: Path, aborts: bool) -> None:
    """A flush that comes too early fails the load, though the weights are in: load again."""
    label = to_weight_version(weights.version)
    for tries_left in reversed(range(FLUSH_TRIES)):
        try:
            await client.load_weights(str(folder), label, flush_cache=True, abort_all_requests=aborts)
        except ServerRefused as error:
            if not tries_left or _NOT_FLUSHED not in str(error):
                raise
        else:
            return


async def _abort_until(loading: asyncio.Task[None], client: ServerClient) -> None:
    """A request that was on its way to SGLang's scheduler escapes an abort, and would be waited for."""
    delay = ABORT_AGAIN_SECONDS
    while not (await asyncio.wait({loading}, timeout=delay))[0]:
        await client.abort_all()
        delay *= 2


async def _repair(
    client: ServerClient,
    weights: WeightAnnouncement,
    fetch: Callable[[], Awaitable[Path]],
    flush_cache: bool,
    cause: Exception,
) -> None:
    try:
        await _load(client, weights, await fetch(), flush_cache=flush_cache)
    except SERVER_ERRORS as error:
        await client.abort_all()
        raise HalfUpdated(
            f"version {weights.version} went in half ({cause}), and its folder not at all ({error})"
        ) from error
