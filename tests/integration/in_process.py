"""Training and evaluation in one process: the real engine, trials, credit and trainer, without sockets or a gateway.

Each update's trials are played by the policy that is then trained (as with `batch.max_staleness=0`), so that a task is
learned in a fraction of what four processes cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamer.actors.episode import Stage
from lamer.actors.generation import decode_answer, encode_request
from lamer.actors.policy import Request
from lamer.actors.rendering import Renderer
from lamer.actors.trial import TrialLimits, TrialPlay
from lamer.common.messages import Lease, Sampling
from lamer.common.records import EVALUATION_SEED, Completion, Purpose, Task, Trial, make_trial_id, training_seed
from lamer.common.settings import Settings
from lamer.common.versions import to_weight_version
from lamer.deploy.inference.embedded.api import make_reply, parse_generate
from lamer.deploy.inference.embedded.engine import Engine, EngineOptions
from lamer.envs import registry
from lamer.envs.results import closing_env
from lamer.learner.trainer.update import PolicyUpdater


@dataclass
class EnginePolicy:
    """What a trial asks, answered by the engine through the bodies that travel over HTTP otherwise."""

    engine: Engine
    version: int = 0

    async def complete(self, request: Request) -> Completion:
        (sequence,) = (await parse_generate(encode_request(request, self.version), self.engine)).sequences
        self.engine.submit([sequence])
        await sequence.done
        reply = make_reply(sequence, self.engine, sequence.saved)
        return decode_answer(msgspec.json.encode(reply), request)

    async def take(self, updater: PolicyUpdater, folder: Path) -> None:
        self.version = updater.version
        updater.save_weights(folder / f"v{self.version}")
        await self.engine.update_weights(folder / f"v{self.version}", to_weight_version(self.version))


@dataclass(frozen=True)
class Session:
    """One configuration being trained: its settings, what renders its prompts, and what answers them."""

    settings: Settings
    renderer: Renderer
    policy: EnginePolicy

    def lease(self, purpose: Purpose, group: int, slot: int, seed: int) -> Lease:
        settings, trial, measured = self.settings, self.settings.trial, self.settings.evaluation
        how = trial if purpose is Purpose.TRAIN else measured
        sampling = Sampling(
            how.temperature, how.top_p, how.top_k, trial.max_response_tokens, trial.max_reflection_tokens
        )
        return Lease(
            trial_id=make_trial_id("here", purpose, group, slot),
            group_id=group,
            slot=slot,
            purpose=purpose,
            task=Task(settings.env.name, registry.canonical_config(settings.env.name, settings.env.options), seed),
            episodes=how.episodes,
            memory=trial.memory,
            sampling=sampling,
            seconds=600.0,
        )

    async def play(self, leases: Sequence[Lease]) -> list[Trial]:
        trial = self.settings.trial
        limits = TrialLimits(trial.max_turns, trial.max_prompt_tokens, trial.prompting)

        async def one(lease: Lease) -> Trial:
            with closing_env(registry.make_env(lease.task)) as env:
                return await TrialPlay(Stage(lease, env, self.policy, self.renderer, limits), "here").run()

        return list(await asyncio.gather(*map(one, leases)))

    async def evaluate(self) -> list[int]:
        """How many of the evaluation's tasks were solved within 1, 2, ... episodes."""
        tasks = self.settings.evaluation.tasks
        trials = await self.play([self.lease(Purpose.EVALUATE, n, 0, EVALUATION_SEED + n) for n in range(tasks)])
        solved = [trial.solved_at for trial in trials if trial.solved_at is not None]
        return [sum(at < k for at in solved) for k in range(1, self.settings.evaluation.episodes + 1)]

    async def batch(self, step: int) -> list[Trial]:
        plan = self.settings.batch
        groups = range((step - 1) * plan.groups, step * plan.groups)
        slots = [(group, slot) for group in groups for slot in range(plan.group_size)]
        seed = self.settings.run.seed
        return await self.play([self.lease(Purpose.TRAIN, g, s, training_seed(seed, g)) for g, s in slots])


async def train(
    settings: Settings, model: Path, folder: Path, tell: Callable[[int, Sequence[Trial]], None] | None = None
) -> tuple[list[int], list[int]]:
    """Tasks solved within 1, 2, ... episodes before and after training `model`; versions of it go to `folder`."""
    engine = Engine(EngineOptions(model, max_running=256, weight_version=to_weight_version(0)))
    session = Session(settings, Renderer.load(model, settings.model.chat_template), EnginePolicy(engine))
    running = asyncio.create_task(engine.run())
    try:
        updater = PolicyUpdater(settings, model)
        before = await session.evaluate()
        for step in range(1, settings.batch.updates + 1):
            trials = await session.batch(step)
            updater.update(step, trials)
            if tell is not None:
                tell(step, trials)
            await session.policy.take(updater, folder)
        return before, await session.evaluate()
    finally:
        running.cancel()
