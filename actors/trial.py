"""One trial: up to N episodes from the same initial state, with a reflection between two, until the first success.

    play_trial   for whoever wants the trial
    TrialPlay    for whoever wants the reason of a failure as well

A trial always comes back as a record. One that failed for a reason of ours ends in an episode whose status says so; a
reflection that fails marks the episode it was to follow.
"""

from __future__ import annotations

import logging
import time

import msgspec

from lamer.actors.episode import FAILURES, EpisodeResult, Stage, TrialLimits, failure_status, guarded, play_episode
from lamer.actors.memory import Memory
from lamer.actors.policy import Policy, RequestKind
from lamer.actors.rendering import Renderer
from lamer.actors.shortening import Shortener, rewriter
from lamer.common.messages import Lease
from lamer.common.records import Episode, Reflection, Trial
from lamer.common.text import valid_text
from lamer.envs.base import Env, ReflectionView
from lamer.envs.results import checked_remark, checked_text

__all__ = ["TrialLimits", "TrialPlay", "play_trial"]

log = logging.getLogger("lamer.actor")


class TrialPlay:
    """A trial being played, once. failure: why it ended for a reason of ours, "" otherwise."""

    def __init__(self, stage: Stage, actor: str) -> None:
        self.failure = ""
        self._stage = stage
        self._actor = actor
        self._memory = Memory(stage.env, stage.lease.memory)
        self._episodes: list[Episode] = []
        self._reflections: list[Reflection] = []

    async def run(self) -> Trial:
        """Play to the end."""
        started = time.monotonic()
        lease = self._stage.lease
        for index in range(lease.episodes):
            result = await play_episode(self._stage, index, self._memory)
            self._episodes.append(result.episode)
            self._stage.watcher.saw_episode(result.episode)
            self.failure = result.failure
            is_over = bool(result.failure) or result.episode.is_solved or index + 1 == lease.episodes
            if is_over or not await self._remember(result):
                break
        return Trial(
            trial_id=lease.trial_id,
            group_id=lease.group_id,
            slot=lease.slot,
            purpose=lease.purpose,
            task=lease.task,
            episodes=tuple(self._episodes),
            reflections=tuple(self._reflections),
            actor=self._actor,
            seconds=time.monotonic() - started,
        )

    async def _remember(self, result: EpisodeResult) -> bool:
        """Keep an unsolved attempt, and what the policy has to say about it; whether the trial can go on."""
        if not self._stage.lease.memory.has_reflections:
            self._memory.add(result.attempt, "")
            return True
        try:
            reflection = await self._reflect(result)
        except FAILURES as error:
            status, self.failure = failure_status(error), valid_text(f"reflection: {error}")
            self._episodes[-1] = msgspec.structs.replace(result.episode, status=status)
            trial_id, index = self._stage.lease.trial_id, result.episode.index
            log.warning("%s: the reflection after episode %d ended as %s: %s", trial_id, index, status.value, error)
            return False
        self._reflections.append(reflection)
        self._memory.add(result.attempt, reflection.text)
        return True

    async def _reflect(self, result: EpisodeResult) -> Reflection:
        env, index = self._stage.env, result.episode.index
        view = ReflectionView(result.initial, guarded(self._memory.past), guarded(result.attempt.for_reflecting), index)
        prompt = checked_text("what reflection_prompt returned", guarded(env.reflection_prompt, view))
        write = rewriter(env.reflection_prompt, view)
        shortener = Shortener(self._memory, result.attempt, env.windows.reflecting, write)
        turn = len(result.episode.turns)
        completion, response = await self._stage.ask(prompt, RequestKind.REFLECT, index, turn, shortener)
        remark = checked_remark(guarded(env.parse_reflection, response))
        return Reflection(completion, remark or "", is_valid=remark is not None)


async def play_trial(
    lease: Lease, env: Env, policy: Policy, renderer: Renderer, limits: TrialLimits, actor: str
) -> Trial:
    """Play the trial that `lease` names and give it back, failed or not; `env` stays open.

    actor: the name of whoever plays, kept in the trial.
    """
    return await TrialPlay(Stage(lease, env, policy, renderer, limits), actor).run()
