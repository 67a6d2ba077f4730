"""The actor process: leases in, trials out.

    run_actor   connects, learns from `Welcome` what is played, works until Shutdown, a signal, or the learner is gone

The work itself is `actors.pool`'s. Everything of an actor runs in one event loop; nothing is left behind when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from actors.inference import InferenceClient, InferenceOptions
from actors.pool import Player, TrialPool
from actors.rendering import Renderer
from actors.routing import Router
from actors.trial import TrialLimits
from common.config import from_json
from common.errors import LamerError
from common.keys import ClientKeys
from common.messages import PROTOCOL_VERSION, Hello, Role
from common.session import Session
from envs import registry

log = logging.getLogger("lamer.actor")

CONNECT_SECONDS = 30.0
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """One actor process. url, keys: of the gateway. trials: run at once. model_path: None for the gateway's."""

    url: str
    keys: ClientKeys
    name: str
    trials: int
    model_path: str | None = None


async def run_actor(options: ActorOptions) -> int:
    """Be an actor until the run is over; the exit code: the gateway's, 130 after SIGINT, 0 after SIGTERM.

    Raises:
        Missing: no learner, no model folder. BadInput: the learner refuses us, or its run needs what we lack.
    """
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with _signals_handled(stop):
        work = asyncio.create_task(_work(options), name=f"actor {options.name}")
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_finished = work.done()
            work.cancel()
            await asyncio.wait({work})
    return work.result() if is_finished else stop.result()


async def _work(options: ActorOptions) -> int:
    hello = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, Role.ACTOR, options.name, capacity=options.trials)
    session = await Session.open(options.url, options.keys, hello, CONNECT_SECONDS)
    reason = "stopped"
    try:
        settings = from_json(session.welcome.config)
        registry.decode_config(settings.env.name, settings.env.options)
        renderer = Renderer.load(options.model_path or session.welcome.model_path, settings.model.chat_template)
        inference = InferenceOptions(settings.inference.request_seconds, settings.inference.retries)
        async with InferenceClient(inference, renderer.vocab_size) as client:
            limits = TrialLimits(settings.trial.max_turns, settings.trial.max_prompt_tokens)
            player = Player(options.name, renderer, limits, client, Router())
            log.info("joined run %s as %s: %d trials at once", session.welcome.run, options.name, options.trials)
            return await TrialPool(session, player, options.trials).run()
    except LamerError as error:
        reason = str(error)
        raise
    finally:
        await session.close(reason)


@contextlib.contextmanager
def _signals_handled(stop: asyncio.Future[int]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM settle `stop` with the exit code that they stand for."""
    loop = asyncio.get_running_loop()

    def settle(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    for number, code in _EXIT_CODES.items():
        loop.add_signal_handler(number, settle, code)
    try:
        yield
    finally:
        for number in _EXIT_CODES:
            loop.remove_signal_handler(number)
