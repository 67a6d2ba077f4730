"""All processes of a run on one machine: what `lamer train` and `lamer eval` do.

    learner   the main child: the run lives as long as it does, and ends with its exit code
    server-i  inference hosts, actor-i actors: started once the learner listens, started again when they die

Every child is a `lamer` command that a user could have typed in a terminal of its own. This process holds no torch and
decides nothing about training: it starts, restarts, shows and ends.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from lamer.common.errors import LamerError
from lamer.common.keys import load_client_keys
from lamer.common.messages import Role
from lamer.common.settings import Settings
from lamer.deploy.models.preparation import creation_note, default_cache
from lamer.deploy.models.suitability import unsuited
from lamer.deploy.run.configuration import tracking_environment
from lamer.deploy.run.folder import RunFolder, locked
from lamer.deploy.run.learning import trainer_patience
from lamer.deploy.run.observer import View, follow
from lamer.deploy.run.processes import lamer_command
from lamer.deploy.run.supervisor import END_SECONDS, Child, Rest, Supervisor

log = logging.getLogger("lamer.local")

OBSERVER_SECONDS = 30.0


async def run_local(run: RunFolder, view: View) -> int:
    """Train, or evaluate, with every process on this machine.

    Returns:
        0, or 130 when interrupted.

    Raises:
        LamerError: the learner failed, or a server or actor can't be kept running. BadInput: another learner is at
            work in the folder.
    """
    with locked(run):  # removes the address of a learner that was killed; the one to come has another
        supervisor = Supervisor(run.logs, view.note, patience=trainer_patience(run.settings) + END_SECONDS)
    for warning in unsuited(run.settings):
        view.note(f"warning: {warning}")
    note, began = creation_note(run.settings, default_cache(run.settings)), time.monotonic()
    if note:
        view.note(note)

    def make_rest() -> Rest:
        if note:
            view.note(f"created the model and started the learner in {time.monotonic() - began:.0f} s")
        url = run.address.read_text(encoding="utf-8").strip()

        async def watch() -> None:
            try:
                await follow(url, load_client_keys(run.keys, Role.OBSERVER), view, OBSERVER_SECONDS)
            except LamerError as error:  # the run goes on unseen; why it ends is the learner's to say
                view.note(f"no status from the learner any more: {error}")

        return Rest(helpers(run.settings, url, run.keys), watch)

    return await supervisor.run(learner(run), run.address.exists, make_rest)


def learner(run: RunFolder) -> Child:
    """The learner of a run whose folder exists already."""
    folder = ("--config", str(run.config), "--name", run.name)
    command = lamer_command("learner", *folder, "--resume", "--plain")
    return Child("learner", command, tracking_environment(run.settings))


def helpers(settings: Settings, url: str, keys: Path) -> tuple[Child, ...]:
    """The configured numbers of inference hosts and actors, joining the learner at `url`."""
    joins = ("--connect", url, "--keys", str(keys))
    serve, act = ("serve", *joins), ("actor", *joins, "--trials", str(settings.actor.trials))
    servers = (
        Child(name, lamer_command(*serve, "--name", name)) for name in _names("server", settings.inference.servers)
    )
    actors = (Child(name, lamer_command(*act, "--name", name)) for name in _names("actor", settings.actor.processes))
    return (*servers, *actors)


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(1, count + 1)]
