"""Whether the trainer fits a card, and what to change where it does not: only what this trainer can do.

The changes, from the cheapest on: layers computed again (about a fifth of the speed), smaller packs, the 8-bit
optimizer (bfloat16 weights), a critic on the policy's own states in place of a second model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from lamer.common.settings import (
    AdvantageSettings,
    CriticSettings,
    LossSettings,
    OptimizerSettings,
    TrainerSettings,
    TrialSettings,
)
from lamer.learner.memory.activations import Gathered, LayerRun
from lamer.learner.memory.architecture import Architecture
from lamer.learner.memory.trainer import (
    CUDA_BYTES,
    CUDA_HEAD,
    LINEAR_HEAD,
    PLAIN_HEAD,
    TrainerMemory,
    TrainerRun,
    trainer_memory,
)

_ON_A_CPU = Gathered(queries=1.2, keys=3.0)
"""What masked attention copies of packs whose samples share most of their prompts, about."""

_BLOCK = 128
_RELIEF = 0.8


class PlanSections(Protocol):
    """The sections of a configuration that memory follows from."""

    @property
    def trial(self) -> TrialSettings:
        """How long prompts and responses may be."""

    @property
    def optimizer(self) -> OptimizerSettings:
        """Weights and moments, and packs."""

    @property
    def trainer(self) -> TrainerSettings:
        """How layers are run."""

    @property
    def advantage(self) -> AdvantageSettings:
        """Whether there is a critic."""

    @property
    def critic(self) -> CriticSettings:
        """Which."""

    @property
    def loss(self) -> LossSettings:
        """Whether there is a reference."""


@dataclass(frozen=True, slots=True)
class TrainerPlan:
    """The settings that memory follows from. critic: None where the estimator has none. longest: most tokens of a
    prompt and its response, below which no pack can be.
    """

    optimizer: OptimizerSettings
    trainer: TrainerSettings
    critic: CriticSettings | None
    has_reference: bool
    longest: int
    is_cuda: bool

    @classmethod
    def of(cls, sections: PlanSections, *, is_cuda: bool) -> TrainerPlan:
        """The plan of a configuration."""
        trial = sections.trial
        answers = [trial.max_response_tokens] + ([trial.max_reflection_tokens] if trial.memory.has_reflections else [])
        return cls(
            optimizer=sections.optimizer,
            trainer=sections.trainer,
            critic=sections.critic if sections.advantage.estimator == "ppo" else None,
            has_reference=sections.loss.kl_weight > 0,
            longest=trial.max_prompt_tokens + max(answers),
            is_cuda=is_cuda,
        )

    @property
    def is_recomputed(self) -> bool:
        """Whether layers are computed again; not where `trainer.recompute` is auto (see `resolved`)."""
        return self.trainer.recompute == "layers"

    def memory(self, model: Architecture) -> TrainerMemory:
        """What the trainer holds at its peak."""
        return trainer_memory(model, self._run(model))

    def _run(self, model: Architecture) -> TrainerRun:
        has_small = self.optimizer.kind == "adamw_8bit"
        dtype = self.trainer.dtype
        layers = LayerRun(
            is_bfloat16=has_small or dtype == "bfloat16" or (dtype == "auto" and self.is_cuda),
            has_small_weights=has_small,
            is_compiled=self.is_cuda and self.trainer.compile == "auto",
            is_recomputed=self.is_recomputed,
            gathered=None if self.is_cuda else _ON_A_CPU,
        )
        tokens = self.optimizer.pack_tokens
        is_one_chunk = tokens * model.vocabulary <= PLAIN_HEAD.values
        return TrainerRun(
            layers=layers,
            head=CUDA_HEAD if self.is_cuda else PLAIN_HEAD if is_one_chunk else LINEAR_HEAD,
            pack_tokens=-(-tokens // _BLOCK) * _BLOCK if self.is_cuda else tokens,
            rows=tokens,
            has_small_states=has_small,
            critics=int(self.critic is not None and self.critic.kind == "separate"),
            references=int(self.has_reference),
        )


_Changed = tuple[tuple[str, ...], TrainerPlan]


@dataclass(frozen=True, slots=True)
class Fit:
    """Settings that make the trainer fit, and what it then takes. changes: KEY=VALUE each, none if it fits as it is."""

    changes: tuple[str, ...]
    plan: TrainerPlan
    memory: TrainerMemory


def room_of(card_bytes: float, taken: float = 0.0) -> float:
    """Bytes that a trainer may fill of a card of which `taken` are another's."""
    return card_bytes - CUDA_BYTES - taken


def resolved(plan: TrainerPlan, model: Architecture, room: float) -> TrainerPlan:
    """The plan with `trainer.recompute` decided: auto computes layers again where the trainer does not fit otherwise,
    and never on a CPU.
    """
    if plan.trainer.recompute != "auto":
        return plan
    kept = replace(plan, trainer=replace(plan.trainer, recompute="none"))
    if not plan.is_cuda or kept.memory(model).total <= room:
        return kept
    return replace(plan, trainer=replace(plan.trainer, recompute="layers"))


def fit(plan: TrainerPlan, model: Architecture, room: float) -> Fit | None:
    """The first of the changes, from the cheapest on, with which the trainer fits; None where it does with none."""
    for changes, changed in _changed(resolved(plan, model, room)):
        memory = changed.memory(model)
        if memory.total <= room:
            return Fit(changes, changed, memory)
    return None


def advice(plan: TrainerPlan, model: Architecture, room: float, card: str) -> str:
    """In one line what to change where the trainer does not fit, "" where it does. card: what has the room."""
    now = resolved(plan, model, room)
    needs = now.memory(model)
    if needs.total <= room:
        return ""
    said = f"the trainer needs {needs.total / 1e9:.1f} GB, {card} has {room / 1e9:.1f} GB for it"
    found = fit(plan, model, room)
    if found is not None:
        return f"{said}: set {' '.join(found.changes)} (then {found.memory.total / 1e9:.1f} GB)"
    *_, (changes, least) = _changed(now)
    smallest = f"{least.memory(model).total / 1e9:.1f} GB with {' '.join(changes)}" if changes else "no less"
    return f"{said}, and would need {smallest}: take a card with more memory or a smaller model"


def relief(plan: TrainerPlan, model: Architecture) -> tuple[str, ...]:
    """What to change where memory ran out, whatever was predicted: the first of the changes that save a fifth at least,
    else the one that saves most; none where nothing is left to change.
    """
    now = plan.memory(model).total
    changed = [(changes, each.memory(model).total) for changes, each in _changed(plan) if changes]
    changed = [(changes, total) for changes, total in changed if total < now]
    enough = [changes for changes, total in changed if total <= _RELIEF * now]
    if enough:
        return enough[0]
    return min(changed, key=lambda each: each[1])[0] if changed else ()


def _changed(plan: TrainerPlan) -> Iterator[_Changed]:
    """The plan as it is, then with more and more changes, the last with all of them that it does not have yet."""
    for steps in (
        (),
        (_recomputed,),
        (_recomputed, _small_packs),
        (_small_states,),
        (_recomputed, _small_states),
        (_recomputed, _small_states, _small_packs),
        (_recomputed, _small_states, _small_packs, _one_model),
    ):
        changed: _Changed = ((), plan)
        for step in steps:
            changed = step(*changed)
        yield changed


def _recomputed(changes: tuple[str, ...], plan: TrainerPlan) -> _Changed:
    if plan.is_recomputed:
        return changes, plan
    trainer = replace(plan.trainer, recompute="layers")
    return (*changes, "trainer.recompute=layers"), replace(plan, trainer=trainer)


def _small_states(changes: tuple[str, ...], plan: TrainerPlan) -> _Changed:
    if plan.optimizer.kind == "adamw_8bit":
        return changes, plan
    optimizer = replace(plan.optimizer, kind="adamw_8bit")
    return (*changes, "optimizer.kind=adamw_8bit"), replace(plan, optimizer=optimizer)


def _small_packs(changes: tuple[str, ...], plan: TrainerPlan) -> _Changed:
    least = -(-plan.longest // _BLOCK) * _BLOCK
    if least >= plan.optimizer.pack_tokens:
        return changes, plan
    optimizer = replace(plan.optimizer, pack_tokens=least)
    return (*changes, f"optimizer.pack_tokens={least}"), replace(plan, optimizer=optimizer)


def _one_model(changes: tuple[str, ...], plan: TrainerPlan) -> _Changed:
    if plan.critic is None or plan.critic.kind == "head":
        return changes, plan
    return (*changes, "critic.kind=head"), replace(plan, critic=replace(plan.critic, kind="head"))
