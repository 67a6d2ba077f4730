"""`lamer eval`: measure a model, with the processes of a run on this machine and no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import ConfigFiles, Overrides, Plain, RunName, run_async
from deploy.commands.train import run_here

ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder: its trained model.")
]


def evaluate(
    model: ModelFolder, config: ConfigFiles, overrides: Overrides = None, name: RunName = "", plain: Plain = False
) -> None:
    """Measure pass@k of a model on the configuration's evaluation tasks."""
    from common.errors import Missing

    folder = model / "model" if (model / "model" / "config.json").is_file() else model
    if not folder.is_dir():
        raise Missing(f"no model folder {model}")
    fixed = [f"model.path={json.dumps(str(folder.resolve()))}", "batch.updates=0", "evaluation.initial=false"]
    run_async(run_here(config, [*(overrides or []), *fixed], name, is_resume=False, is_plain=plain))
