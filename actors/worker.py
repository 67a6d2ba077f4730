"""The actor process: leases in, trials out.

    run_actor   connects, learns from `Welcome` what is played, works until Shutdown, a signal, or the learner is gone

The work itself is `actors.runner`'s. Everything of an actor runs in one event loop; nothing is left behind when it
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lamer.actors.inference import InferenceClient, InferenceOptions
from lamer.actors.rendering import Renderer
from lamer.actors.routing import Router
from lamer.actors.runner import Player, TrialRunner
from lamer.actors.trial import TrialLimits
from lamer.common.config import from_json
from lamer.common.errors import LamerError, Missing
from lamer.common.keys import ClientKeys
from lamer.common.messages import PROTOCOL_VERSION, Hello, ModelFiles, ModelFilesRequest, Role
from lamer.common.model_files import cache_root, keep_model_files
from lamer.common.session import BUSY_SECONDS, Session
from lamer.common.settings import Settings
from lamer.common.text import valid_text
from lamer.common.weights import ModelFingerprint, read_fingerprint
from lamer.envs import registry

log = logging.getLogger("lamer.actor")

CONNECT_SECONDS = 30.0
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """One actor process. url, keys: of the gateway. trials: run at once.

    model_path: the model's folder on this machine, with or without weights; None: the gateway's if it can be read here,
    else its small files are asked for.
    """

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
    fingerprint = read_fingerprint(Path(options.model_path)) if options.model_path else None
    hello = Hello(
        PROTOCOL_VERSION,
        PROTOCOL_VERSION,
        Role.ACTOR,
        options.name,
        capacity=options.trials,
        fingerprint=fingerprint,
    )
    session = await Session.open(options.url, options.keys, hello, CONNECT_SECONDS, BUSY_SECONDS)
    reason = "stopped"
    try:
        settings = from_json(session.welcome.config)
        _check_environment(settings)
        folder = Path(options.model_path) if options.model_path else await _find_model(session)
        renderer = Renderer.load(folder, settings.model.chat_template, settings.model.enable_thinking)
        inference = InferenceOptions(settings.inference.request_seconds, settings.inference.retries)
        async with InferenceClient(inference, renderer.vocab_size) as client:
            trial = settings.trial
            budget = trial.max_prompt_tokens
            limits = TrialLimits(trial.max_turns, budget, trial.prompting, budget if trial.shorten else 0)
            router = Router(is_random=settings.inference.routing == "random")
            player = Player(options.name, renderer, limits, client, router)
            log.info("joined run %s as %s: %d trials at once", session.welcome.run, options.name, options.trials)
            return await TrialRunner(session, player, options.trials).run()
    except LamerError as error:
        reason = valid_text(str(error))
        raise
    finally:
        await session.close(reason)


def _check_environment(settings: Settings) -> None:
    """Refuse a run whose environment, in training or in evaluations, can't be played on this machine.

    Raises:
        BadInput: there is none of that name, or without its options. Missing: its package or its data is not here.
    """
    env, evaluation = settings.env, settings.evaluation
    registry.check_data(env.name, registry.canonical_config(env.name, env.options))
    if evaluation.tasks and evaluation.split:
        options = {**env.options, "split": evaluation.split}
        registry.check_data(env.name, registry.canonical_config(env.name, options))


async def _find_model(session: Session) -> Path:
    """The learner's model folder if it can be read here and is the run's, else its small files, asked for and kept.

    Raises:
        Missing: the learner is gone. BadInput: it sent files that can't be kept.
    """
    folder = Path(session.welcome.model_path)
    if _is_the_runs(folder, session.welcome.fingerprint):
        return folder
    answer = await session.ask(ModelFilesRequest(), ModelFiles)
    try:
        kept = keep_model_files(answer.files, cache_root())
    except OSError as error:
        raise Missing(f"the model's files can't be kept under {cache_root()}: {error}") from error
    log.info("the model's folder is not on this machine: its %d small files are kept in %s", len(answer.files), kept)
    return kept


def _is_the_runs(folder: Path, expected: ModelFingerprint | None) -> bool:
    """Whether a folder of the learner's machine is here too, and not another one of the same name."""
    if expected is None:
        return folder.is_dir()
    try:
        return not expected.difference(read_fingerprint(folder))
    except (LamerError, OSError):
        return False


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
