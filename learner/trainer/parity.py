"""Whether engine and trainer compute the same policy: responses scored again under the version that sampled them.

`engine/logprob_gap_*` compares tokens of age 0 for free, but an asynchronous batch may hold none. So a few responses of
every update, whatever their age, are scored with the weights of their own version, which lie in the run's folder for a
while. What remains is numerical: about 1e-6 in float32, unless one side has a defect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lamer.common.messages import Metric
from lamer.common.records import Completion, Trial
from lamer.learner.credit.samples import Sample, SampleKind
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import PolicyModel


def engine_parity(
    model: PolicyModel, trials: Sequence[Trial], folder_of: Callable[[int], Path], responses: int, pack_tokens: int
) -> tuple[Metric, ...]:
    """Largest and mean |trainer - engine| in nats over the tokens of up to `responses` responses.

    Args:
        model: the trainer's; its parameters are exchanged, one by one, during the call and given back.
        trials: the batch. Only responses that a single policy version generated are compared, and of those the
            version with the most responses.
        folder_of: the model folder of a policy version.
        responses: how many to score, spread evenly over the batch.
        pack_tokens: most tokens of one forward pass.

    Returns:
        engine/parity_max, engine/parity_mean and engine/parity_version; nothing where that version's weights are gone,
        for any rank. Every rank scores all of them.
    """
    whole = [each for trial in trials for each in trial.completions() if len(each.versions) == 1]
    if not whole:
        return ()
    version = Counter(each.oldest_version for each in whole).most_common(1)[0][0]
    weights = folder_of(version)
    there = model.ranks.total(torch.tensor(float(weights.is_dir()), device=model.device))
    if int(there) < model.ranks.size:
        return ()
    chosen = [each for each in whole if each.oldest_version == version]
    step = max(1, len(chosen) // responses)
    samples = [_as_sample(each) for each in chosen[::step][:responses]]
    gaps: list[torch.Tensor] = []
    with torch.no_grad(), model.with_weights(weights):
        for item in pack(samples, pack_tokens):
            behaviour = torch.from_numpy(item.tokens.behaviour).to(model.device)
            gaps.append((model.score(model.prepare(item)).logprobs - behaviour).abs())
    found = torch.cat(gaps)
    return (
        Metric("engine/parity_max", float(found.max())),
        Metric("engine/parity_mean", float(found.mean())),
        Metric("engine/parity_version", float(version)),
    )


def _as_sample(completion: Completion) -> Sample:
    ages = np.zeros(len(completion.ids), dtype=np.int32)
    return Sample(
        kind=SampleKind.TURN,
        prompt_ids=completion.prompt_ids,
        ids=completion.ids,
        behaviour_logprobs=completion.behaviour_logprobs,
        ages=ages,
        temperature=completion.temperature,
        is_valid=True,
        advantage=0.0,
    )
