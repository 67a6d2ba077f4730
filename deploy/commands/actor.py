"""`lamer actor`: one process that plays trials for a learner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import Connect, KeysFolder, default_name, log_to, run_async

Name = Annotated[str, typer.Option("--name", help="What the learner calls this actor.")]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Trials played at once.")]
Model = Annotated[Path | None, typer.Option("--model", metavar="DIR", help="The tokenizer's folder on this machine.")]


def actor(connect: Connect, keys: KeysFolder, name: Name = "", trials: Trials = 128, model: Model = None) -> None:
    """Play trials for the learner at URL until its run is over."""
    from lamer.actors.worker import ActorOptions, run_actor
    from lamer.common.keys import load_client_keys
    from lamer.common.messages import Role

    log_to(None)
    options = ActorOptions(
        url=connect,
        keys=load_client_keys(keys, Role.ACTOR),
        name=name or default_name("actor"),
        trials=trials,
        model_path=str(model) if model is not None else None,
    )
    run_async(run_actor(options))
