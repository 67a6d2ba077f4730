"""A command's configuration: read and checked before anything is created or started.

    read_settings           files and `key=value` overrides -> settings, the environment's options filled in
    evaluation_env_config   the environment's options in evaluations
    check_data              is the environment's data here?
    check_model_path        can the configured model folder be used?
    with_tracking_address   the tracking address whole again, where a run folder holds it without its password
    tracking_environment    what hands it to a learner that is started on such a folder

Importing it loads nothing heavy, so that every command may import it at its top.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lamer.common.errors import BadInput
from lamer.common.masking import is_masked, link, masked

if TYPE_CHECKING:
    from lamer.common.settings import Settings

ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
_LOGIN_VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")


def read_settings(files: Sequence[Path], overrides: Sequence[str], name: str = "") -> Settings:
    """The configuration of `files` and `overrides`, the options of its environment checked and filled in.

    Raises:
        BadInput: it can't be used. Missing: a file is not there.
    """
    from lamer.common import config
    from lamer.common.schema import ForeignOption
    from lamer.envs import registry

    try:
        settings = config.load(files, overrides, reopens_auto=True)
    except ForeignOption as error:
        registry.get(error.env)  # of an environment that doesn't exist, that is what to say
        raise
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


def with_tracking_address(settings: Settings) -> Settings:
    """The settings with the tracking address whole again: from the environment, where a run folder has it masked.

    $MLFLOW_TRACKING_URI must be that address; or MLflow's own login variables stand for what is masked.

    Raises:
        BadInput: the environment has neither.
    """
    tracking = settings.tracking
    if not tracking.mlflow or not is_masked(tracking.uri):
        return settings
    given = os.environ.get(ADDRESS_VARIABLE, "")
    is_login = tracking.uri.startswith("http") and masked(link(tracking.uri)) == link(tracking.uri)
    if given and masked(given) == tracking.uri:
        uri = given
    elif is_login and "?" not in tracking.uri and any(os.environ.get(name) for name in _LOGIN_VARIABLES):
        uri = link(tracking.uri)
    else:
        raise BadInput(
            f"tracking.uri is {tracking.uri}: what is secret in it is not kept; give it again, as tracking.uri=... or "
            f"in the environment ({ADDRESS_VARIABLE}, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
        )
    return replace(settings, tracking=replace(tracking, uri=uri))


def tracking_environment(settings: Settings) -> Mapping[str, str]:
    """What a learner that reads a run folder's configuration needs beside it: the tracking address, if masked there."""
    uri = settings.tracking.uri
    return {ADDRESS_VARIABLE: uri} if masked(uri) != uri else {}
