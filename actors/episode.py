"""One episode: prompt, response, environment step, until it is done, out of turns, or something fails.

A failure does not raise: it is the episode's status, and `EpisodeResult.failure` says what happened.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import msgspec

from lamer.actors.memory import AttemptMemory, Memory
from lamer.actors.policy import ContextOverflow, InferenceError, Policy, Request, RequestKind, sampling_seed
from lamer.actors.rendering import Renderer
from lamer.actors.shortening import Shortener, rewriter
from lamer.actors.watching import NOBODY, Watcher
from lamer.common.messages import Lease
from lamer.common.records import Completion, Episode, EpisodeStatus, TokenIds, Turn
from lamer.common.settings import Prompting
from lamer.common.text import describe_error, valid_text
from lamer.envs.base import Env, EnvironmentFault, Observation, PlayView
from lamer.envs.results import checked_observation, checked_step, checked_stop, checked_text, checked_turns

log = logging.getLogger("lamer.actor")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """Bounds of a trial, and what its play prompts ask for.

    max_turns: of an episode, 0 for the environment's own. max_prompt_tokens: a longer prompt ends the trial.
    shorten_to: prompts with more tokens are shortened as far as they can be (`actors.shortening`); 0: never.
    """

    max_turns: int
    max_prompt_tokens: int
    prompting: Prompting = Prompting.REACT
    shorten_to: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """What stays the same over a trial: who plays what, by which rules, and who looks on."""

    lease: Lease
    env: Env
    policy: Policy
    renderer: Renderer
    limits: TrialLimits
    watcher: Watcher = NOBODY

    async def ask(
        self, prompt: str, kind: RequestKind, episode: int, turn: int, shortener: Shortener
    ) -> tuple[Completion, str]:
        """The policy's response to a user message, as ids and as text. shortener: of that message.

        Raises:
            ContextOverflow: the prompt is too long. InferenceError: there is no usable response.
        """
        sampling, is_play = self.lease.sampling, kind is RequestKind.PLAY
        stop = (
            checked_stop("stop", self.env.stop)
            if is_play
            else checked_stop("reflection_stop", self.env.reflection_stop)
        )
        prompt_ids, left_out = self._encode(prompt, shortener)
        request = Request(
            prompt_ids=prompt_ids,
            max_tokens=sampling.max_response_tokens if is_play else sampling.max_reflection_tokens,
            stop=stop,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling_seed(self.lease.trial_id, episode, turn),
            kind=kind,
        )
        completion = await self.policy.complete(request)
        if left_out:
            completion = msgspec.structs.replace(completion, left_out_tokens=left_out)
        return completion, self.renderer.decode(completion.ids)

    def _encode(self, prompt: str, shortener: Shortener) -> tuple[TokenIds, int]:
        """The ids of a prompt, shortened where it must be, and how many tokens that left out."""
        limits, full = self.limits, self.renderer.render(prompt)
        sent = full
        if 0 < limits.shorten_to < len(full):
            sent = guarded(shortener.fit, self.renderer.render, limits.shorten_to)
        if len(sent) > limits.max_prompt_tokens:
            least = f", {len(sent)} without all that may be left out" if len(sent) < len(full) else ""
            raise ContextOverflow(
                f"the prompt has {len(full)} tokens{least}, trial.max_prompt_tokens is {limits.max_prompt_tokens}"
            )
        return sent, max(len(full) - len(sent), 0)


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """An episode, its steps for memory, its first observation, and why it failed ("" when it was played out)."""

    episode: Episode
    attempt: AttemptMemory
    initial: str
    failure: str = ""


FAILURES = (ContextOverflow, InferenceError, EnvironmentFault)
"""What ends an episode for a reason of ours."""


def failure_status(error: Exception) -> EpisodeStatus:
    """The status of an episode that one of `FAILURES` ended."""
    if isinstance(error, ContextOverflow):
        return EpisodeStatus.CONTEXT_OVERFLOW
    if isinstance(error, InferenceError):
        return EpisodeStatus.INFERENCE_ERROR
    return EpisodeStatus.ENVIRONMENT_ERROR


def guarded(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of the environment returns; whatever it raises comes out as an `EnvironmentFault`.

    So does an exit of the process: engines exit where they should raise.
    """
    try:
        return function(*args, **kwargs)
    except EnvironmentFault:
        raise
    except (Exception, SystemExit) as error:
        raise _fault_of(function, error) from error


async def guarded_await(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """`guarded` for a coroutine function of the environment."""
    try:
        return await function(*args, **kwargs)
    except EnvironmentFault:
        raise
    except (Exception, SystemExit) as error:
        raise _fault_of(function, error) from error


def _fault_of(function: Callable[..., object], error: BaseException) -> EnvironmentFault:
    log.error("the environment raised in %s", getattr(function, "__qualname__", function), exc_info=error)
    return EnvironmentFault(describe_error(error))


async def play_episode(stage: Stage, index: int, memory: Memory) -> EpisodeResult:
    """Play attempt `index` from the task's initial state, with what `memory` shows of the earlier ones."""
    attempt = AttemptMemory(stage.env)
    turns: list[Turn] = []
    initial, failure = "", ""
    try:
        first = checked_observation("what reset returned", await guarded_await(stage.env.start))
        initial = first.text
        status = await _play_turns(stage, index, memory, first, attempt, turns)
    except FAILURES as error:
        status, failure = failure_status(error), valid_text(str(error))
        log.warning("%s: episode %d ended as %s: %s", stage.lease.trial_id, index, status.value, failure)
    return EpisodeResult(Episode(index, tuple(turns), status), attempt, initial, failure)


async def _play_turns(
    stage: Stage, index: int, memory: Memory, first: Observation, attempt: AttemptMemory, turns: list[Turn]
) -> EpisodeStatus:
    """Add to `turns` and `attempt` until the episode is over."""
    observation, limits, past = first, stage.limits, guarded(memory.past)
    for turn in range(limits.max_turns or checked_turns(guarded(getattr, stage.env, "max_turns"))):
        current = guarded(attempt.for_playing)
        view = PlayView(first.text, observation.text, past, current, index, turn, limits.prompting)
        prompt = checked_text("what play_prompt returned", guarded(stage.env.play_prompt, view))
        shortener = Shortener(memory, attempt, stage.env.windows.playing, rewriter(stage.env.play_prompt, view))
        completion, response = await stage.ask(prompt, RequestKind.PLAY, index, turn, shortener)
        result = checked_step(await guarded_await(stage.env.play, response))
        turns.append(Turn(completion, result.action, result.reward, observation.anchor_state, result.score))
        attempt.add(result)
        stage.watcher.saw_step(index, turn, result)
        observation = result.observation
        if result.is_done:
            return EpisodeStatus.SOLVED if result.is_solved else EpisodeStatus.FAILED
    return EpisodeStatus.MAX_TURNS
