"""`lamer eval`: measure a model, with the processes of a run on this machine and no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer.deploy.commands.options import ConfigFiles, Overrides, Plain, RunName, run_async
from lamer.deploy.run.configuration import check_data, check_model_path, read_settings

ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, or a run folder: its trained model.")
]


def evaluate(
    model: ModelFolder, config: ConfigFiles, overrides: Overrides = None, name: RunName = "", plain: Plain = False
) -> None:
    """Measure pass@k of a model on the configuration's evaluation tasks, which may differ from those it learned on.

    `evaluation.episodes` may be any number, `evaluation.memory` any mode (none: independent attempts),
    `evaluation.rounds` plays every task again with other sampling seeds.
    """
    from lamer.common.config import override
    from lamer.common.errors import BadInput
    from lamer.deploy.run.preflight import check_first_prompts, find_model
    from lamer.deploy.run.whole import run_settings

    folder = find_model(model)
    fixed = [override("model.path", str(folder)), "batch.updates=0", "evaluation.initial=false"]
    settings = read_settings(config, [*(overrides or []), *fixed], name)
    if settings.evaluation.tasks == 0:
        raise BadInput("evaluation.tasks is 0: there is nothing to evaluate")
    check_data(settings)
    check_first_prompts(settings, folder)
    check_model_path(settings)
    run_async(run_settings(settings, config, is_resume=False, is_plain=plain))
