"""What must hold before a start: for training on a card, memory; for an evaluation a model that can be read, and first
prompts that it has room for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.settings import Settings
from lamer.deploy.run.configuration import evaluation_env_config

_PROBED_TASKS = 8
_QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 20.0
_DOUBT = 1.1
"""Memory is predicted within a tenth: only what is over that is refused."""


def check_memory(settings: Settings) -> None:
    """Refuse a trainer that the first card of this machine has no memory for, less what a server beside it takes.

    A machine without a card, a trainer that is told to use none, one of several ranks (the formulas are of one) and the
    pocket model are not looked at.

    Raises:
        BadInput: it does not fit; the line says what to change. There are fewer cards than `trainer.gpus`.
    """
    folder, device = Path(settings.model.path), settings.trainer.device
    cards = _visible(_cards(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    uses_cards = bool(cards) and settings.batch.updates > 0 and device.startswith(("auto", "cuda"))
    if uses_cards and settings.trainer.gpus > len(cards):
        raise BadInput(f"trainer.gpus is {settings.trainer.gpus}, and this machine has {len(cards)}")
    if not uses_cards or settings.trainer.gpus > 1 or not settings.model.path:
        return
    from lamer.learner.memory.advice import TrainerPlan, advice, resolved, room_of
    from lamer.learner.trainer.fitting import server_beside, sizes_of

    model = sizes_of(folder)
    server = server_beside(model, settings.inference, len(cards))
    card = cards[int(device.partition(":")[2] or 0) % len(cards)]
    plan, room = TrainerPlan.of(settings, is_cuda=True), room_of(card, server)
    if resolved(plan, model, room).memory(model).total > _DOUBT * room:
        beside = f" beside a server of {server / 1e9:.1f} GB" if server else ""
        raise BadInput(advice(plan, model, room, f"a card of {card / 1e9:.0f} GB{beside}"))


def _cards() -> tuple[float, ...]:
    """Bytes of the NVIDIA cards of this machine; its own tool is asked, so that no CUDA context is made here."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        asked = subprocess.run((tool, *_QUERY), capture_output=True, text=True, timeout=_QUERY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs is found out by the trainer
        return ()
    words = asked.stdout.split() if asked.returncode == 0 else []
    return tuple(float(word) * 2**20 for word in words if word.isdigit())


def _visible(cards: tuple[float, ...], named: str | None) -> tuple[float, ...]:
    """Those of the machine's cards that CUDA_VISIBLE_DEVICES names by number; by another kind of name, as many."""
    if named is None:
        return cards
    names = [name.strip() for name in named.split(",")]
    chosen = names[: names.index("-1")] if "-1" in names else [name for name in names if name]
    if all(name.isdigit() and int(name) < len(cards) for name in chosen):
        return tuple(cards[int(name)] for name in chosen)
    return cards[: len(chosen)]


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
