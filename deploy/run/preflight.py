"""What must hold before an evaluation starts: a model that can be read, and first prompts that it has room for."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.settings import Settings
from lamer.deploy.run.configuration import evaluation_env_config

_PROBED_TASKS = 8


class _ModelConfig(msgspec.Struct):
    """The one entry of `config.json` that is read here."""

    max_position_embeddings: int | None = None


def find_model(path: Path) -> Path:
    """The model folder that a user means: `path` itself, or the trained model of the run folder `path`.

    Raises:
        Missing: there is no such folder. BadInput: it holds no model that can be evaluated.
    """
    from lamer.deploy.models.folders import check_model
    from lamer.deploy.run.folder import CONFIG_FILE

    if not path.is_dir():
        raise Missing(f"no model folder {path}")
    is_run = (path / CONFIG_FILE).is_file() and not (path / "config.json").is_file()
    folder = path / "model" if is_run else path
    if is_run and not folder.is_dir():
        raise BadInput(f"the run {path} has no trained model: finish it with `lamer train --resume`, then evaluate it")
    try:
        return check_model(folder)
    except Missing as error:
        lacking = str(error).partition(" lacks ")[2]
        raise BadInput(f"{folder} is no model folder: it lacks {lacking}") from error


def check_first_prompts(settings: Settings, model: Path) -> None:
    """Refuse a model, or a limit, that leaves no room even for first prompts; later ones can still outgrow it.

    Raises:
        BadInput: the shortest first prompt of some tasks, with a response, is longer than the model's context, or alone
            longer than trial.max_prompt_tokens. RunFailed: the environment fails on one of them.
    """
    from lamer.actors.rendering import Renderer

    trial = settings.trial
    renderer = Renderer.load(model, settings.model.chat_template, settings.model.enable_thinking)
    shortest = min(len(renderer.render(prompt)) for prompt in _first_prompts(settings))
    if shortest > trial.max_prompt_tokens:
        raise BadInput(
            f"first prompts of {settings.env.name} have {shortest} tokens and more with {model}, "
            f"trial.max_prompt_tokens is {trial.max_prompt_tokens}: raise it"
        )
    context = _context(model)
    if context is not None and shortest + trial.max_response_tokens > context:
        raise BadInput(
            f"the context of {model} is {context} tokens: too short for first prompts of {settings.env.name}, of "
            f"{shortest} tokens and more, with a response of trial.max_response_tokens={trial.max_response_tokens}"
        )


def _first_prompts(settings: Settings) -> list[str]:
    """The first prompts of some evaluation tasks."""
    from lamer.actors.episode import guarded
    from lamer.envs import registry
    from lamer.envs.base import EnvironmentFault, PlayView
    from lamer.envs.results import checked_observation, checked_text, closing_env
    from lamer.learner.measuring.evaluation import evaluation_task

    prompts = []
    env_config = evaluation_env_config(settings)
    for index in range(min(_PROBED_TASKS, settings.evaluation.tasks)):
        task = evaluation_task(settings.env.name, env_config, index)
        try:
            with closing_env(registry.make_env(task)) as env:
                text = checked_observation("what reset returned", guarded(env.reset)).text
                view = PlayView(text, text, "", "", 0, 0, settings.trial.prompting)
                prompts.append(checked_text("what play_prompt returned", guarded(env.play_prompt, view)))
        except EnvironmentFault as error:
            raise RunFailed(f"{task.env}, seed {task.seed}, can't be played: {error}") from error
    return prompts


def _context(model: Path) -> int | None:
    """How many tokens the model's positions reach, None where its configuration does not say."""
    try:
        tree = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return msgspec.convert(tree, _ModelConfig).max_position_embeddings
    except (ValueError, msgspec.ValidationError) as error:
        raise BadInput(f"{model / 'config.json'} is no model configuration: {error}") from error
