"""`lamer serve`: joins a run as an inference host, with the server and the delivery that were asked for."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace

from lamer.common.config import from_json
from lamer.common.errors import BadInput
from lamer.common.messages import PROTOCOL_VERSION, Hello, Role
from lamer.common.session import BUSY_SECONDS, Session
from lamer.common.settings import InferenceSettings
from lamer.common.weights import ModelFingerprint, read_fingerprint
from lamer.deploy.inference.engines.attach import Attacher
from lamer.deploy.inference.engines.base import EngineSource
from lamer.deploy.inference.engines.launch import Launcher
from lamer.deploy.inference.engines.options import EngineOptions, HostOptions, claim_cache
from lamer.deploy.inference.fetching.base import LiveDelivery
from lamer.deploy.inference.fetching.collective import COLLECTIVES, CollectiveDelivery, check_collective
from lamer.deploy.inference.fetching.folders import make_folder_delivery
from lamer.deploy.inference.fetching.interface import interface_towards
from lamer.deploy.inference.host import Host
from lamer.deploy.models.fitness import check_fitness
from lamer.deploy.run.precision import has_nvidia_gpu

log = logging.getLogger("lamer.host")

CONNECT_SECONDS = 30.0


async def run_host(options: HostOptions) -> int:
    """Connect to the gateway, serve its policy, and follow it until the run is over.

    Returns:
        the exit code that the gateway's Shutdown named, or 130 after SIGINT or SIGTERM.

    Raises:
        LamerError: the gateway can't be reached or refused us, or the server can't be started or kept alive.
    """
    options.check()
    hello = Hello(
        protocol_min=PROTOCOL_VERSION,
        protocol_max=PROTOCOL_VERSION,
        role=Role.HOST,
        name=options.name,
        fingerprint=await _fingerprint(options),
    )
    session = await Session.open(options.url, options.keys, hello, CONNECT_SECONDS, BUSY_SECONDS)
    try:
        run = options.resolved(from_json(session.welcome.config).inference)
        if options.model_path is not None and not options.attach:
            is_embedded = run.engine == "embedded"
            await asyncio.to_thread(check_fitness, options.model_path, is_trained=False, is_embedded=is_embedded)
        host = _make_host(options, run, session)
        log.info("joined run %s as %s: %d sequences at once", session.welcome.run, options.name, run.max_running)
        serving = asyncio.create_task(host.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
        try:
            return await serving
        except asyncio.CancelledError:
            return 130
    finally:
        await session.close("the inference host ends")


async def _fingerprint(options: HostOptions) -> ModelFingerprint | None:
    """Of the model that this host has already: the folder that was named, or the one that the server holds."""
    attached = await Attacher(options, 1).fingerprint() if options.attach else None
    if options.model_path is not None:
        return read_fingerprint(options.model_path)
    return attached


def _make_host(options: HostOptions, run: InferenceSettings, session: Session) -> Host:
    is_broadcast = run.delivery in COLLECTIVES
    source: EngineSource
    if options.attach:
        source = Attacher(options, run.max_running)
    else:
        meets_at = interface_towards(options.url) if is_broadcast else ""
        source = Launcher(replace(EngineOptions.of(options, run), group_interface=meets_at))
    if is_broadcast and run.update_mode == "wait":
        raise BadInput(f"--update-mode wait can't be used with --delivery {run.delivery}, which pauses the server")
    cache = claim_cache(options.cache, session.welcome.run)
    folders = make_folder_delivery("auto" if is_broadcast else run.delivery, cache, session.send, run.anchor_every)
    live = _make_live(options, run, session) if is_broadcast else None
    return Host(options.name, run.update_mode, session, source, folders, live, options.model_path)


def _make_live(options: HostOptions, run: InferenceSettings, session: Session) -> LiveDelivery:
    """Broadcasts into the server. One that somebody else started is taken for what it may be: SGLang on a GPU."""
    if not options.attach:
        check_collective(run, has_gpu=has_nvidia_gpu())
    return CollectiveDelivery(run.delivery, run.tensor_parallel, session.send)
