"""What a gradient step minimises, pack by pack.

    sum(policy losses) / tokens - entropy * sum(entropies) / tokens + kl_weight * sum(k3) / tokens
        + value_weight * sum(value losses) / responses

Tokens and responses are those of the whole minibatch, so the sum over its packs is the same for any packing.

`Models` are the policy that is trained, and, where the settings ask for them, PPO's critic and the frozen model that
the run started from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lamer.common.settings import CriticSettings, LossSettings, TrainerSettings
from lamer.learner.trainer.critic import Critic
from lamer.learner.trainer.loss import ResponseTokens, TokenLogprobs, ValueLoss, k3_kl, policy_loss, value_loss
from lamer.learner.trainer.metrics import TokenMeter
from lamer.learner.trainer.model.moving import to_device
from lamer.learner.trainer.model.packing import Pack
from lamer.learner.trainer.model.policy import PolicyModel
from lamer.learner.trainer.model.scorer import PackInput, TokenScores


@dataclass(frozen=True, slots=True)
class Models:
    """policy: trained. critic: of `advantage.estimator` ppo. reference: of `loss.kl_weight` above 0, never trained."""

    policy: PolicyModel
    critic: Critic | None
    reference: PolicyModel | None


@dataclass(slots=True)
class TrainingPack:
    """A pack of a minibatch, on the host, and what is known of its tokens.

    proximal: logprobs [N] under the policy before the update, reference: under the reference model; on the model's
    device, None while not computed.
    """

    source: Pack
    proximal: torch.Tensor | None = None
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LoadedPack:
    """A pack on the model's device while its objective is computed: per token [N], per response [R]."""

    data: PackInput
    behaviour: torch.Tensor
    advantages: torch.Tensor
    ages: torch.Tensor
    index: torch.Tensor
    lengths: torch.Tensor
    values: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Minibatch:
    """The packs of one optimizer step."""

    packs: tuple[TrainingPack, ...]

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(len(item.source.targets) for item in self.packs)

    @property
    def responses(self) -> int:
        """Responses."""
        return sum(len(item.source.responses.lengths) for item in self.packs)


def make_minibatch(model: PolicyModel, packs: Iterable[Pack]) -> Minibatch:
    """Packs that `model` can score, still on the host.

    Raises:
        BadInput: one can't be scored.
    """
    waiting = tuple(TrainingPack(item) for item in packs)
    for item in waiting:
        model.check_pack(item.source)
    return Minibatch(waiting)


def load_models(
    policy: PolicyModel, trainer: TrainerSettings, critic: CriticSettings | None, *, has_reference: bool
) -> Models:
    """The policy with what stands beside it, loaded from the policy's folder.

    Args:
        policy: trained.
        trainer: where and in which dtype models are loaded.
        critic: None where the estimator needs none.
        has_reference: whether the KL to the model that the run started from is needed.

    Raises:
        Missing, BadInput: the folder can't be loaded again.
    """
    return Models(
        policy,
        Critic(critic, trainer, policy) if critic is not None else None,
        PolicyModel(policy.path, trainer, policy.pack_tokens) if has_reference else None,
    )


def load_pack(model: PolicyModel, item: Pack) -> LoadedPack:
    """A pack as tensors on the model's device, its masks among them: to be dropped once it is computed.

    Raises:
        BadInput: a token id outside the vocabulary.
    """
    device = model.device
    return LoadedPack(
        data=model.prepare(item),
        behaviour=to_device(item.tokens.behaviour, device),
        advantages=to_device(item.tokens.advantages, device),
        ages=to_device(item.tokens.ages, device),
        index=to_device(item.tokens.responses, device),
        lengths=to_device(item.responses.lengths, device),
        values=to_device(item.responses.values, device),
        targets=to_device(item.responses.targets, device),
    )


@torch.no_grad()
def compute_proximal(model: PolicyModel, packs: Iterable[TrainingPack]) -> None:
    """Score packs under the policy that the update starts from."""
    for item in packs:
        item.proximal = model.score(model.prepare(item.source)).logprobs


@torch.no_grad()
def compute_reference(model: PolicyModel, packs: Iterable[TrainingPack]) -> None:
    """Score packs under the reference model."""
    for item in packs:
        item.reference = model.score(model.prepare(item.source)).logprobs


class Objective:
    """The objective of one update's packs."""

    def __init__(
        self, loss: LossSettings, critic: CriticSettings, models: Models, entropy: float, meter: TokenMeter
    ) -> None:
        """entropy: this update's coefficient. meter: told of every pack."""
        self._loss = loss
        self._critic = critic
        self._models = models
        self._entropy = entropy
        self._meter = meter

    def of_pack(self, item: TrainingPack, batch: Minibatch, *, is_first: bool) -> torch.Tensor:
        """A pack's share of its minibatch's objective, with gradient. The pack is loaded for it.

        Args:
            item: one of the minibatch's packs.
            batch: the minibatch.
            is_first: whether the policy is still that which the update starts from.
        """
        policy = self._models.policy
        loaded = load_pack(policy, item.source)
        hidden = policy.hidden(loaded.data)
        scores = policy.score_hidden(loaded.data, hidden, has_entropy_gradient=self._entropy != 0.0)
        if is_first:
            item.proximal = scores.logprobs.detach()
        objective = self._policy_part(item, loaded, scores, batch)
        if self._models.critic is not None:
            loss = self._value_loss(self._models.critic, loaded, hidden)
            objective = objective + self._critic.value_weight * loss.losses.sum() / batch.responses
        return objective

    def _policy_part(
        self, item: TrainingPack, loaded: LoadedPack, scores: TokenScores, batch: Minibatch
    ) -> torch.Tensor:
        proximal = loaded.behaviour if item.proximal is None else item.proximal
        responses = ResponseTokens(loaded.index, loaded.lengths, batch.tokens / batch.responses)
        logprobs = TokenLogprobs(scores.logprobs, proximal, loaded.behaviour)
        loss = policy_loss(logprobs, loaded.advantages, responses, self._loss)
        total = loss.losses.sum() - self._entropy * scores.entropies.sum()
        self._meter.add(loss, scores.entropies)
        if item.proximal is not None:
            self._meter.compare(item.proximal, loaded.behaviour, loaded.ages)
        if item.reference is not None:
            divergence = k3_kl(scores.logprobs, item.reference)
            total = total + self._loss.kl_weight * divergence.sum()
            self._meter.add_kl(divergence)
        return total / batch.tokens

    def _value_loss(self, critic: Critic, item: LoadedPack, hidden: torch.Tensor) -> ValueLoss:
        loss = value_loss(critic.values(item.data, hidden), item.values, item.targets, self._critic.clip)
        self._meter.add_values(loss)
        return loss
