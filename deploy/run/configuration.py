"""A command's configuration: read and checked before anything is created or started.

    read_settings           files and `key=value` overrides -> settings, the environment's options filled in
    evaluation_env_config   the environment's options in evaluations
    check_data              is the environment's data here?
    check_model_path        can the configured model folder be used?

Importing it loads nothing heavy, so that every command may import it at its top.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lamer.common.errors import BadInput

if TYPE_CHECKING:
    from lamer.common.settings import Settings


def read_settings(files: Sequence[Path], overrides: Sequence[str], name: str = "") -> Settings:
    """The configuration of `files` and `overrides`, the options of its environment checked and filled in.

    Raises:
        BadInput: it can't be used. Missing: a file is not there.
    """
    from lamer.common import config
    from lamer.envs import registry

    settings = config.load(files, overrides)
    options = json.loads(registry.canonical_config(settings.env.name, settings.env.options))
    evaluation_env_config(settings)
    run = replace(settings.run, name=name) if name else settings.run
    return replace(settings, run=run, env=replace(settings.env, options=options))


def evaluation_env_config(settings: Settings) -> str:
    """The environment's options in evaluations as canonical JSON: `env.options` in the split `evaluation.split`.

    Raises:
        BadInput: the environment has no splits, or not this one.
    """
    from lamer.envs import registry

    env, split = settings.env, settings.evaluation.split
    if not split:
        return registry.canonical_config(env.name, env.options)
    if "split" not in {field.name for field in fields(registry.get(env.name).config_class)}:
        raise BadInput(f"evaluation.split is {split!r}, but the environment {env.name} has no splits")
    return registry.canonical_config(env.name, {**env.options, "split": split})


def check_data(settings: Settings) -> None:
    """Refuse a configuration whose environment lacks its data here, before anything is created or started.

    Raises:
        Missing: it does, for training or for evaluation; the message says which command brings it.
    """
    from lamer.envs import registry

    env = settings.env
    registry.check_data(env.name, registry.canonical_config(env.name, env.options))
    if settings.evaluation.tasks:
        registry.check_data(env.name, evaluation_env_config(settings))


def check_model_path(settings: Settings) -> None:
    """Refuse a configured model folder that can't be used, before anything is created or started.

    Raises:
        Missing: it is not there, or lacks a file. BadInput: it holds no model that can be trained, if the configuration
            trains, and served.
    """
    from lamer.deploy.models.fitness import check_fitness
    from lamer.deploy.models.folders import check_model

    if settings.model.path:
        check_fitness(
            check_model(Path(settings.model.path)),
            is_trained=settings.batch.updates > 0,
            is_embedded=settings.inference.engine == "embedded",
        )
