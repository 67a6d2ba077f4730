"""Scripted random play: whole trials, played as actors play them, by a policy that asks the environment what to answer.

    ScriptedPolicy   answers with `Env.random_response` and `Env.random_reflection`, encoded by the model's tokenizer
    play_scripted    trials of the configured environment, memory and number of episodes

The answers are legal and teach nothing about the task. The prompts are the ones a policy meets: the same rendering, the
same memory, the same chat template.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from lamer.actors.episode import Stage, guarded
from lamer.actors.policy import Request, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.tokens import TextEncoder
from lamer.actors.trial import TrialLimits, TrialPlay
from lamer.common.errors import BadInput, LamerError, RunFailed
from lamer.common.messages import Lease, Sampling
from lamer.common.records import (
    Completion,
    FinishReason,
    Purpose,
    Task,
    TokenIds,
    Trial,
    VersionSpan,
    make_trial_id,
    training_seed,
)
from lamer.common.settings import Settings
from lamer.envs import registry
from lamer.envs.base import Env, EnvironmentFault
from lamer.envs.results import checked_text, closing_env

UNBOUNDED_TOKENS = 2**30
TRIAL_SECONDS = 3600.0
TRIALS_AT_ONCE = 16
"""Trials that are played side by side, for environments whose engine works in other processes."""

FileT = TypeVar("FileT", bound=msgspec.Struct)


class _Ids(msgspec.Struct):
    """The one entry of `generation_config.json` and `config.json` that is read here."""

    eos_token_id: int | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes responses for one model: the text, which makes no control token, then the end-of-sequence token."""

    text: TextEncoder
    eos: int

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Read the tokenizer of a model folder and its end-of-sequence token.

        Raises:
            Missing: there is no tokenizer. BadInput: no file names an end-of-sequence token.
        """
        renderer = Renderer.load(folder, use_chat_template=False)
        return cls(renderer.encoder, _end_of_sequence(folder, renderer.end_ids))

    def encode(self, response: str) -> TokenIds:
        """Response ids, int32 [R]."""
        return np.array([*self.text.text(response), self.eos], dtype=np.int32)

    def completion(self, request: Request, response: str) -> Completion:
        """A response that no model gave; its behaviour logprobs are 0 and mean nothing."""
        ids = self.encode(response)
        return Completion(
            prompt_ids=request.prompt_ids,
            ids=ids,
            behaviour_logprobs=np.zeros(len(ids), dtype=np.float32),
            versions=(VersionSpan(0, 0, len(ids)),),
            finish_reason=FinishReason.STOP,
        )


@dataclass(frozen=True, slots=True)
class _Played:
    """A trial, and why it failed, "" where it was played out."""

    trial: Trial
    failure: str


class ScriptedPolicy:
    """A policy for one trial: random legal actions and empty reflections of its environment."""

    def __init__(self, env: Env, encoder: Encoder, seed: str) -> None:
        self._env = env
        self._encoder = encoder
        self._rng = random.Random(seed)

    async def complete(self, request: Request) -> Completion:
        """A random answer of the kind asked for."""
        is_play = request.kind is RequestKind.PLAY
        return self._encoder.completion(request, scripted_answer(self._env, self._rng, is_play=is_play))


def scripted_answer(env: Env, rng: random.Random, *, is_play: bool) -> str:
    """What an environment's scripted play answers: to a play prompt, or to a reflection prompt.

    Raises:
        EnvironmentFault: the environment fails, or answers with something else than text.
    """
    if is_play:
        return checked_text("what random_response returned", guarded(env.random_response, rng))
    return checked_text("what random_reflection returned", guarded(env.random_reflection, rng))


def play_scripted(settings: Settings, model_path: Path, trials: int, shorten_to: int = 0) -> tuple[Trial, ...]:
    """Play `trials` tasks of the configured environment, one trial each; the same settings give the same trials.

    Where `model.warmstart.also` names other options, they and the configured ones take turns.

    The prompts are rendered by the model's tokenizer and template. Those of more than `shorten_to` tokens are shortened
    as an actor shortens them, as far as it goes; 0: they are as long as they are.

    Raises:
        BadInput: the environment or its options are not known, or the model names no end-of-sequence token.
        Missing: the model folder has no tokenizer. RunFailed: the environment failed in every trial.
    """
    encoder = Encoder.load(model_path)
    renderer = Renderer.load(model_path, settings.model.chat_template, settings.model.enable_thinking)
    env_configs = _env_configs(settings)
    leases = [_lease(settings, env_configs[index % len(env_configs)], index) for index in range(trials)]
    limits = TrialLimits(settings.trial.max_turns, UNBOUNDED_TOKENS, settings.trial.prompting, shorten_to)
    played = asyncio.run(_play_all(leases, renderer, encoder, limits))
    failure = played[0].failure if played else ""
    if failure and all(each.failure for each in played):
        raise RunFailed(f"scripted play of {settings.env.name} failed in all of {len(played)} trials: {failure}")
    return tuple(each.trial for each in played)


async def _play_all(
    leases: Sequence[Lease], renderer: Renderer, encoder: Encoder, limits: TrialLimits
) -> tuple[_Played, ...]:
    free = asyncio.Semaphore(TRIALS_AT_ONCE)

    async def play(lease: Lease) -> _Played:
        async with free:
            with closing_env(registry.make_env(lease.task)) as env:
                policy = ScriptedPolicy(env, encoder, lease.trial_id)
                trial_play = TrialPlay(Stage(lease, env, policy, renderer, limits), "scripted")
                return _Played(await trial_play.run(), trial_play.failure)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(play(lease)) for lease in leases]
    except* LamerError as errors:
        raise errors.exceptions[0] from None
    except* EnvironmentFault as errors:
        raise RunFailed(f"scripted play: {errors.exceptions[0]}") from None
    return tuple(task.result() for task in tasks)


def _env_configs(settings: Settings) -> list[str]:
    """The options to play, those of `env.options` first.

    Raises:
        BadInput: options that the environment doesn't have, or can't play.
    """
    env, found = settings.env, []
    for changed in ({}, *settings.model.warmstart.also):
        try:
            found.append(registry.canonical_config(env.name, {**env.options, **changed}))
        except BadInput as error:
            raise BadInput(f"model.warmstart.also = {changed}: {error}" if changed else str(error)) from error
    return found


def _lease(settings: Settings, env_config: str, index: int) -> Lease:
    """Trial `index`; its task is the one of training group `index`."""
    seed = training_seed(settings.run.seed, index)
    sampling = Sampling(
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_response_tokens=settings.trial.max_response_tokens,
        max_reflection_tokens=settings.trial.max_reflection_tokens,
    )
    return Lease(
        trial_id=make_trial_id(f"scripted-{settings.run.seed}", Purpose.TRAIN, index, 0),
        group_id=index,
        slot=0,
        purpose=Purpose.TRAIN,
        task=Task(env=settings.env.name, env_config=env_config, seed=seed),
        episodes=settings.trial.episodes,
        memory=settings.trial.memory,
        sampling=sampling,
        seconds=TRIAL_SECONDS,
    )


def _end_of_sequence(folder: Path, end_ids: frozenset[int]) -> int:
    """What ends a response: as the model's configuration says, else any of `end_ids`, which its other files name."""
    for name in ("generation_config.json", "config.json"):
        value = _read(folder / name, _Ids).eos_token_id
        if isinstance(value, tuple):
            value = value[0] if value else None
        if value is not None:
            return value
    if not end_ids:
        raise BadInput(f"{folder} names no end-of-sequence token (eos_token_id in config.json)")
    return min(end_ids)


def _read(path: Path, kind: type[FileT]) -> FileT:
    """What a JSON file says; the defaults where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return kind()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {error}") from error
