"""What an update is measured by. Names are the ones shown in MLflow.

    trials    reward/mean, reward/episode_1.., train/pass@1.., train/episodes, train/valid_actions,
              train/valid_reflections, train/score, staleness/mean, staleness/max, rollout/prefix_hit_rate,
              rollout/shortened_prompts, rollout/left_out_tokens
    samples   train/samples, train/response_tokens, train/advantage_std
    tokens    loss/policy, loss/entropy, loss/clip_fraction, loss/dual_clip_fraction, loss/kl, engine/...
    values    critic/loss, critic/clip_fraction; and those of `learner.trainer.critic.value_metrics`

engine/logprob_gap_max and _mean are |trainer - engine| over tokens of age 0, where both hold the same weights: what
remains is numerical. policy/logprob_shift_mean is the same over all tokens, staleness included. engine/importance_ess
is the effective share of tokens under the weights pi_prox / pi_behave, before they are capped.

By token age, in updates between the version that sampled a token and the one trained from (0, 1, .. max_staleness, and
`older` where a token is):
    engine/tokens_age_N        share of all response tokens
    engine/ess_age_N           effective share of them under pi_prox / pi_behave; left out where there are none
    engine/logprob_gap_age_N   mean of |log pi_prox - log pi_behave| over them; left out where there are none
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lamer.common.messages import Metric
from lamer.common.records import Trial
from lamer.learner.credit.samples import Sample
from lamer.learner.trainer.loss import PolicyLoss, ValueLoss, effective_share, ratio
from lamer.learner.trainer.ranks.group import Ranks


def trial_metrics(trials: Sequence[Trial], episodes: int, policy_version: int) -> list[Metric]:
    """Rewards, success and staleness of a batch.

    Args:
        trials: the batch.
        episodes: most episodes of a trial; pass@k is given for each k up to it.
        policy_version: the version trained from.

    reward/episode_k is the mean over the trials that played episode k; pass@k is over all trials.
    train/score is the mean of the scores that the environment gave beside its rewards, where it gave any.
    rollout/prefix_hit_rate is the share of prompt tokens whose keys and values the servers had cached.
    rollout/shortened_prompts is the share of prompts that were shortened to keep to their budget, and left_out_tokens
    by how many tokens each of them was on average; where there are none it is left out.
    """
    rewards = [sum(episode.reward for episode in trial.episodes) for trial in trials]
    metrics = [Metric("reward/mean", _mean(rewards))]
    for index in range(episodes):
        metrics += _episode_metrics(trials, index)
    return [*metrics, *_play_metrics(trials), *_age_metrics(trials, policy_version), *_prompt_metrics(trials)]


def _play_metrics(trials: Sequence[Trial]) -> list[Metric]:
    """What was played, and how well formed it was."""
    turns = [turn for trial in trials for episode in trial.episodes for turn in episode.turns]
    scores = [turn.score for turn in turns if turn.score is not None]
    reflections = [reflection.is_valid for trial in trials for reflection in trial.reflections]
    metrics = [
        Metric("train/episodes", _mean([len(trial.episodes) for trial in trials])),
        Metric("train/valid_actions", _mean([turn.is_valid for turn in turns])),
    ]
    if scores:
        metrics.append(Metric("train/score", _mean(scores)))
    if reflections:
        metrics.append(Metric("train/valid_reflections", _mean(reflections)))
    return metrics


def _age_metrics(trials: Sequence[Trial], policy_version: int) -> list[Metric]:
    ages = [policy_version - trial.oldest_version for trial in trials]
    return [Metric("staleness/mean", _mean(ages)), Metric("staleness/max", float(max(ages)))]


def _prompt_metrics(trials: Sequence[Trial]) -> list[Metric]:
    """Of prompts: how much of them servers had cached, and how much had to be left out."""
    responses = [completion for trial in trials for completion in trial.completions()]
    prompt_tokens = sum(len(completion.prompt_ids) for completion in responses)
    left_out = [tokens for trial in trials for tokens in trial.left_out_tokens]
    metrics = [
        Metric("rollout/prefix_hit_rate", sum(completion.cached_tokens for completion in responses) / prompt_tokens),
        Metric("rollout/shortened_prompts", len(left_out) / len(responses)),
    ]
    if left_out:
        metrics.append(Metric("rollout/left_out_tokens", _mean(left_out)))
    return metrics


def _episode_metrics(trials: Sequence[Trial], index: int) -> list[Metric]:
    """Reward of episode `index` over the trials that played it, and the share of all trials solved by its end."""
    rewards = [trial.episodes[index].reward for trial in trials if index < len(trial.episodes)]
    solved = [trial.solved_at is not None and trial.solved_at <= index for trial in trials]
    metrics = [Metric(f"reward/episode_{index + 1}", _mean(rewards))] if rewards else []
    return [*metrics, Metric(f"train/pass@{index + 1}", _mean(solved))]


def sample_metrics(samples: Sequence[Sample]) -> list[Metric]:
    """Size and spread of what a batch became."""
    return [
        Metric("train/samples", float(len(samples))),
        Metric("train/response_tokens", float(sum(len(sample.ids) for sample in samples))),
        Metric("train/advantage_std", float(np.std([sample.advantage for sample in samples]))),
    ]


@dataclass(slots=True)
class TokenMeter:
    """What the packs of an update say of their tokens; read once at the end, so that a GPU isn't waited for.

    max_staleness: the highest token age that is shown by itself.
    """

    max_staleness: int
    _sums: list[torch.Tensor] = field(default_factory=list)
    _tokens: int = 0
    _proximal: list[torch.Tensor] = field(default_factory=list)
    _behaviour: list[torch.Tensor] = field(default_factory=list)
    _ages: list[torch.Tensor] = field(default_factory=list)
    _divergences: list[torch.Tensor] = field(default_factory=list)
    _values: list[torch.Tensor] = field(default_factory=list)

    def add(self, loss: PolicyLoss, entropies: torch.Tensor) -> None:
        """Count a pack that was trained on."""
        rows = (loss.losses, entropies, loss.clipped, loss.dual_clipped, loss.capped)
        self._sums.append(torch.stack([row.detach().double().sum() for row in rows]))
        self._tokens += len(entropies)

    def add_kl(self, divergences: torch.Tensor) -> None:
        """Count the KL estimates of a pack's tokens, [n]."""
        self._divergences.append(divergences.detach())

    def add_values(self, loss: ValueLoss) -> None:
        """Count the value losses of a pack's responses."""
        self._values.append(torch.stack((loss.losses.detach().double(), loss.clipped.double())))

    def compare(self, proximal: torch.Tensor, behaviour: torch.Tensor, ages: torch.Tensor) -> None:
        """Count tokens whose logprobs under the policy that the update starts from are known, [n] each."""
        self._proximal.append(proximal)
        self._behaviour.append(behaviour)
        self._ages.append(ages)

    def joined(self, ranks: Ranks) -> TokenMeter:
        """What all ranks counted, in their order."""
        if ranks.size == 1:
            return self
        own = {
            f"{name}/{index:06d}": value for name, values in self._lists().items() for index, value in enumerate(values)
        }
        found = TokenMeter(self.max_staleness)
        for theirs in ranks.all_of({"tokens": torch.tensor(self._tokens), **own}):
            found._tokens += int(theirs["tokens"])
            for name, values in found._lists().items():
                values.extend(theirs[key] for key in sorted(theirs) if key.startswith(f"{name}/"))
        return found

    def _lists(self) -> dict[str, list[torch.Tensor]]:
        return {
            "sums": self._sums,
            "proximal": self._proximal,
            "behaviour": self._behaviour,
            "ages": self._ages,
            "divergences": self._divergences,
            "values": self._values,
        }

    def metrics(self) -> list[Metric]:
        """The figures; the gap is left out where no token has age 0, what was not counted as well."""
        policy, entropy, clipped, dual_clipped, capped = (torch.stack(self._sums).sum(0) / self._tokens).tolist()
        proximal, behaviour = torch.cat(self._proximal), torch.cat(self._behaviour)
        ages, gaps = torch.cat(self._ages), (proximal - behaviour).abs()
        current = gaps[ages == 0]
        metrics = [
            Metric("loss/policy", policy),
            Metric("loss/entropy", entropy),
            Metric("loss/clip_fraction", clipped),
            Metric("loss/dual_clip_fraction", dual_clipped),
            Metric("loss/importance_capped", capped),
            Metric("engine/importance_ess", effective_share(ratio(proximal, behaviour))),
            Metric("policy/logprob_shift_mean", float(gaps.mean())),
        ]
        if len(current):
            metrics.append(Metric("engine/logprob_gap_max", float(current.max())))
            metrics.append(Metric("engine/logprob_gap_mean", float(current.mean())))
        if self._divergences:
            metrics.append(Metric("loss/kl", float(torch.cat(self._divergences).mean())))
        if self._values:
            value, limited = torch.cat(self._values, dim=1).mean(dim=1).tolist()
            metrics += [Metric("critic/loss", value), Metric("critic/clip_fraction", limited)]
        return metrics + _metrics_by_age(proximal, behaviour, ages, self.max_staleness)


def _metrics_by_age(
    proximal: torch.Tensor, behaviour: torch.Tensor, ages: torch.Tensor, max_staleness: int
) -> list[Metric]:
    """Share, effective share and mean gap of the tokens of each age, from logprobs and ages [n] each."""
    metrics: list[Metric] = []
    groups = [(str(age), ages == age) for age in range(max_staleness + 1)]
    older = ages > max_staleness
    if bool(older.any()):
        groups.append(("older", older))
    for age, chosen in groups:
        metrics.append(Metric(f"engine/tokens_age_{age}", float(chosen.double().mean())))
        if bool(chosen.any()):
            theirs, ours = behaviour[chosen], proximal[chosen]
            metrics.append(Metric(f"engine/ess_age_{age}", effective_share(ratio(ours, theirs))))
            metrics.append(Metric(f"engine/logprob_gap_age_{age}", float((ours - theirs).abs().mean())))
    return metrics


def _mean(values: Sequence[float]) -> float:
    return float(sum(values)) / len(values)
