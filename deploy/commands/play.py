"""`lamer play`: an environment in the terminal, as the agent sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import Overrides
from lamer.deploy.run.configuration import read_settings

Environment = Annotated[str, typer.Argument(metavar="ENV", help="The environment's name.")]
Config = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file, or the name of one that comes with lamer."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Which task.")]
Policy = Annotated[str, typer.Option("--policy", metavar="human|random", help="Who answers.")]
Show = Annotated[str, typer.Option("--show", metavar="tokens", help="Show how many tokens prompts and answers have.")]
Model = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="A model's folder: prompts as its tokenizer makes them.")
]


def play(
    env: Environment,
    overrides: Overrides = None,
    config: Config = None,
    seed: Seed = 0,
    policy: Policy = "human",
    show: Show = "",
    model: Model = None,
) -> None:
    """Play an environment: its prompts, memory, reflections and episodes, with your answers in the model's place.

    An answer without tags is put into them. Ctrl-D leaves.
    """
    from rich.console import Console

    from lamer.common.errors import BadInput
    from lamer.deploy.play.playing import play_here
    from lamer.deploy.play.terminal import Voice, read_keyboard
    from lamer.envs import registry

    if policy not in ("human", "random"):
        raise BadInput(f"--policy {policy!r}: it must be human or random")
    if show not in ("", "tokens"):
        raise BadInput(f"--show {show!r}: it must be tokens")
    settings = read_settings(config or [], [f"env.name={env}", *(overrides or [])])
    folder = model or (Path(settings.model.path) if settings.model.path else None)
    if show and folder is None:
        raise BadInput("--show tokens counts with a model's tokenizer: name its folder with --model")
    registry.check_data(env, registry.canonical_config(env, settings.env.options))
    voice = Voice.load(folder, settings.model.chat_template, settings.model.enable_thinking)
    read = read_keyboard if policy == "human" else None
    play_here(settings, seed, voice, Console(highlight=False), read, counts_tokens=bool(show))
