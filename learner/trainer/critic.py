"""PPO's critic: what the return after a prompt is expected to be, one value a response.

A value is read at the last token of the prompt, before the response: it is the baseline that the response is compared
with. The critic is a linear head that starts at 0, on the policy's last hidden state ("head") or on that of a model of
its own, which starts as the policy ("separate"). Either way its own parameters have their own AdamW, at a constant
learning rate; with "head" the value loss reaches the policy's layers through the policy's optimizer.

The critic never leaves the trainer: checkpoints hold it, published model folders do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from lamer.common.messages import Metric
from lamer.common.settings import CriticSettings, TrainerSettings
from lamer.learner.credit.advantages import FloatArray
from lamer.learner.credit.samples import Sample
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import PolicyModel
from lamer.learner.trainer.model.scorer import PackInput, at_least_float32
from lamer.learner.trainer.ranks.dealing import deal
from lamer.learner.trainer.ranks.sharding import let_go, shard


class Critic:
    """Values of prompts, and the parameters that they come from."""

    def __init__(self, settings: CriticSettings, trainer: TrainerSettings, policy: PolicyModel) -> None:
        """A critic on `policy`, or on another copy of the model in its folder.

        Raises:
            Missing, BadInput: the folder can't be loaded again.
        """
        self._policy = policy
        self._own = policy.another(trainer) if settings.kind == "separate" else None
        self._head = torch.nn.Linear(policy.hidden_size, 1, device=policy.device)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)
        if policy.dtype is torch.float64:
            self._head.double()
        if (mesh := policy.ranks.mesh()) is not None:
            shard(self._head, (), mesh, self._head.weight.dtype)

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """The critic's own parameters by name; those of the policy are not among them."""
        head = {f"head.{name}": parameter for name, parameter in self._head.named_parameters()}
        if self._own is None:
            return head
        return head | {f"model.{name}": parameter for name, parameter in self._own.decoder_parameters().items()}

    def values(self, data: PackInput, hidden: torch.Tensor) -> torch.Tensor:
        """Values of a pack's responses, float32 [R] with gradient.

        Args:
            data: the pack.
            hidden: the policy's hidden states of its rows; not looked at by a critic with a model of its own.
        """
        states = hidden if self._own is None else self._own.hidden(data)
        return self._read(states, data)

    def _read(self, states: torch.Tensor, data: PackInput) -> torch.Tensor:
        """The head on the states of the prompts' last tokens, [R]. Many responses share one; as in attention, what they
        send back through `embedding` is summed in a fixed order.
        """
        found: torch.Tensor = self._head(at_least_float32(F.embedding(data.prompt_rows, states)))[:, 0]
        return found

    @torch.no_grad()
    def score(self, samples: Sequence[Sample], pack_tokens: int) -> FloatArray:
        """Values of the samples' prompts, float64 [n], in packs of prompts only."""
        model = self._own or self._policy
        prompts = [
            replace(one, ids=one.ids[:1], ages=one.ages[:1], behaviour_logprobs=one.behaviour_logprobs[:1])
            for one in samples
        ]
        found = np.zeros(len(samples), dtype=np.float64)
        packs = pack(prompts, pack_tokens)
        ranks = self._policy.ranks
        for share in deal(packs, [item.cost for item in packs], ranks.size)[ranks.rank]:
            data = model.prepare(share.pack)
            values = self._read(model.hidden(data), data).cpu().numpy()
            if share.counts:
                found[share.pack.responses.samples] = values
        let_go(self._head)
        parts = [each["values"].numpy() for each in ranks.all_of({"values": torch.from_numpy(found)})]
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)


def value_metrics(samples: Sequence[Sample]) -> list[Metric]:
    """How well the values of a batch foresaw their targets.

    critic/value_mean. critic/explained_variance = 1 - var(target - value) / var(target): 1 for a critic that foresaw
    every target, 0 for one no better than their mean; left out where all targets are equal.
    critic/explainable_variance = 1 - var(target given its prompt) / var(target): what the best critic would reach,
    without bias, over the samples whose prompt stands several times in the batch; left out where there are none.
    """
    values = np.array([sample.value for sample in samples])
    targets = np.array([sample.value_target for sample in samples])
    metrics = [Metric("critic/value_mean", float(values.mean()))]
    spread = float(targets.var())
    if spread > 0:
        metrics.append(Metric("critic/explained_variance", 1.0 - float((targets - values).var()) / spread))
    explainable = _explainable_variance(samples)
    if explainable is not None:
        metrics.append(Metric("critic/explainable_variance", explainable))
    return metrics


def _explainable_variance(samples: Sequence[Sample]) -> float | None:
    by_prompt: dict[bytes, list[float]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_ids.tobytes(), []).append(sample.value_target)
    repeated = [np.array(targets) for targets in by_prompt.values() if len(targets) > 1]
    if not repeated:
        return None
    spread = float(np.concatenate(repeated).var())
    noise = sum(float(targets.var(ddof=1)) * len(targets) for targets in repeated) / sum(map(len, repeated))
    return 1.0 - noise / spread if spread > 0 else None
