"""Other ways to the same gradient, with the layers and the attention that transformers has.

    padded   batches of sequences padded on the right, as most trainers feed them
    packed   sequences one after another, positions that begin again at each: transformers' own packing
    bare     as many random tokens as our packs hold, in full rows and with the plainest loss: nothing is laid out,
             masked or looked up, so that it is an upper bound

Each sequence is a prompt and its response, computed by itself: no prefix is shared. Parameters are those of the trainer
that is measured, the very same memory. Only positions that predict a response token go through the output head, as with
ours, and the loss is the trainer's (`learner.trainer.loss`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from lamer.common.errors import BadInput
from lamer.common.settings import LossSettings
from lamer.learner.credit.samples import Sample
from lamer.learner.fitness.loading import read_config
from lamer.learner.trainer.loss import ResponseTokens, TokenLogprobs, policy_loss

_HEAD_VALUES = 1 << 26
"""Most logits that are kept for the backward pass; more are computed in chunks, again when needed."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward pass: ids [B, L]; positions [B, L] where they are not 0, 1, ...; mask [B, L] where there is padding.

    predicting: int64 [N], places in the flattened rows whose output predicts a response token. samples: whose they are.
    """

    ids: torch.Tensor
    positions: torch.Tensor | None
    mask: torch.Tensor | None
    predicting: torch.Tensor
    samples: tuple[Sample, ...]


def padded(samples: Sequence[Sample], tokens: int, device: torch.device) -> tuple[Rows, ...]:
    """Batches of at most `tokens` tokens, padding included, of sequences of similar length."""
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=_length):
        if batches and (len(batches[-1]) + 1) * _length(sample) <= tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return tuple(_padded(batch, device) for batch in batches)


def packed(samples: Sequence[Sample], tokens: int, device: torch.device) -> tuple[Rows, ...]:
    """Rows of at most `tokens` tokens, of sequences one after another."""
    batches: list[list[Sample]] = []
    used = 0
    for sample in samples:
        if batches and used + _length(sample) <= tokens:
            batches[-1].append(sample)
            used += _length(sample)
        else:
            batches.append([sample])
            used = _length(sample)
    return tuple(_packed(batch, device) for batch in batches)


class PlainModel:
    """The model as transformers runs it, on the parameters of another one."""

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, torch.nn.Parameter],
        autocast: torch.dtype | None,
        *,
        is_recomputed: bool,
    ) -> None:
        """parameters: by name, whose memory is used. autocast: None for none. is_recomputed: layers are checkpointed.

        Raises:
            BadInput: the parameters are not those of the model in `folder`.
        """
        first = next(iter(parameters.values()))
        self.device = first.device
        self._autocast = autocast
        self.module: PreTrainedModel
        with torch.device(self.device):
            self.module = AutoModelForCausalLM.from_config(
                read_config(folder), dtype=first.dtype, attn_implementation="sdpa"
            ).eval()
        own = dict(self.module.named_parameters())
        if own.keys() != parameters.keys():
            raise BadInput(f"the trainer's parameters are not those of {folder}")
        for name, parameter in own.items():
            parameter.data = parameters[name].data
        if is_recomputed:
            self.module.gradient_checkpointing_enable({"use_reentrant": False})
            self.module.train()
        self._head = cast(torch.nn.Module, self.module.get_output_embeddings())
        self.vocabulary = int(self.module.config.vocab_size)

    def gradients(self) -> dict[str, torch.Tensor]:
        """By name; those of the last pass."""
        found = {name: parameter.grad for name, parameter in self.module.named_parameters()}
        return {name: value for name, value in found.items() if value is not None}

    def forget(self) -> None:
        """Free the gradients."""
        self.module.zero_grad(set_to_none=True)

    def gradient(self, batches: Sequence[Rows], loss: LossSettings, entropy: float) -> float:
        """The loss of all batches together; its gradient is left in the parameters.

        entropy: the coefficient of the entropy bonus.
        """
        tokens = sum(len(rows.predicting) for rows in batches)
        responses = sum(len(rows.samples) for rows in batches)
        total = 0.0
        for rows in batches:
            with self._precision():
                logprobs, entropies = self._scores(rows)
            current = logprobs.detach()
            index, lengths, advantages, behaviour = _of_tokens(rows, self.device)
            described = ResponseTokens(index, lengths, tokens / responses)
            losses = policy_loss(TokenLogprobs(logprobs, current, behaviour), advantages, described, loss).losses
            part = (losses.sum() - entropy * entropies.sum()) / tokens
            torch.autograd.backward(part)
            total += float(part.detach())
        return total

    def bare(self, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Forward and backward passes of `bare_rows`, with the mean logprob of a token as the loss."""
        for ids, predicting in batches:
            with self._precision():
                hidden = self._hidden(Rows(ids, None, None, predicting, ()))
                logprobs, _ = self._in_chunks(hidden, ids.reshape(-1)[predicting], 1.0)
            torch.autograd.backward(-logprobs.mean())

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, self._autocast) if self._autocast else contextlib.nullcontext()

    def _hidden(self, rows: Rows) -> torch.Tensor:
        decoder = cast(torch.nn.Module, self.module.base_model)
        output = decoder(
            input_ids=rows.ids, attention_mask=rows.mask, position_ids=rows.positions, use_cache=False
        ).last_hidden_state
        found: torch.Tensor = output.reshape(-1, output.shape[-1]).index_select(0, rows.predicting)
        return found

    def _scores(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs and entropies of the response tokens, [N] each."""
        ids = torch.from_numpy(np.concatenate([sample.ids for sample in rows.samples])).long().to(self.device)
        return self._in_chunks(self._hidden(rows), ids, rows.samples[0].temperature)

    def _in_chunks(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = max(1, _HEAD_VALUES // self.vocabulary)
        if len(hidden) <= size:
            return self._of_chunk(hidden, targets, temperature)
        parts = [
            checkpoint(
                self._of_chunk, hidden[at : at + size], targets[at : at + size], temperature, use_reentrant=False
            )
            for at in range(0, len(hidden), size)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _of_chunk(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._head(hidden).float()
        logprobs = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
        entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
        return logprobs.gather(1, targets[:, None])[:, 0], entropies


def bare_rows(
    tokens: int, predicting: int, length: int, vocabulary: int, limit: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Random rows of `length` tokens, `tokens` in all and `predicting` of them through the head, in batches of at most
    `limit` tokens.
    """
    rng = np.random.default_rng(0)
    most, left, heads = max(1, limit // length), tokens, predicting
    while left > 0:
        count = min(most, max(1, left // length))
        width = min(length, left)
        ids = torch.from_numpy(rng.integers(0, vocabulary, (count, width))).to(device)
        share = min(count * width, max(1, round(heads * count * width / left)))
        places = np.unique(np.linspace(0, count * width - 1, share).astype(np.int64))
        yield ids, torch.from_numpy(places).to(device)
        left, heads = left - count * width, heads - share


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry of the same parameter's."""
    differences = [
        float((ours[name].float() - theirs[name].float()).abs().max() / ours[name].float().abs().max().clamp(min=1e-30))
        for name in ours
    ]
    return max(differences)


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + len(sample.ids) - 1


def _fed(sample: Sample) -> np.ndarray:
    return np.concatenate((sample.prompt_ids, sample.ids[:-1])).astype(np.int64)


def _padded(batch: Sequence[Sample], device: torch.device) -> Rows:
    width = max(map(_length, batch))
    ids = np.zeros((len(batch), width), dtype=np.int64)
    mask = np.zeros((len(batch), width), dtype=np.int64)
    predicting = []
    for row, sample in enumerate(batch):
        fed = _fed(sample)
        ids[row, : len(fed)], mask[row, : len(fed)] = fed, 1
        predicting.append(row * width + np.arange(len(sample.prompt_ids) - 1, len(fed)))
    on_device: Callable[[np.ndarray], torch.Tensor] = lambda array: torch.from_numpy(array).to(device)  # noqa: E731
    return Rows(on_device(ids), None, on_device(mask), on_device(np.concatenate(predicting)), tuple(batch))


def _packed(batch: Sequence[Sample], device: torch.device) -> Rows:
    starts = np.cumsum([0, *map(_length, batch)])[:-1]
    ids = np.concatenate([_fed(sample) for sample in batch])[None]
    positions = np.concatenate([np.arange(_length(sample)) for sample in batch])[None]
    predicting = [
        start + np.arange(len(sample.prompt_ids) - 1, _length(sample))
        for start, sample in zip(starts, batch, strict=True)
    ]
    tensors = [torch.from_numpy(array).to(device) for array in (ids, positions, np.concatenate(predicting))]
    return Rows(tensors[0], tensors[1], None, tensors[2], tuple(batch))


def _of_tokens(rows: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the loss needs: each token's response [N], responses' lengths [R], advantages [N], behaviour [N]."""
    lengths = np.array([len(sample.ids) for sample in rows.samples])
    advantages = np.repeat(np.array([sample.advantage for sample in rows.samples], dtype=np.float32), lengths)
    behaviour = np.concatenate([sample.behaviour_logprobs for sample in rows.samples])
    arrays = (np.repeat(np.arange(len(lengths)), lengths), lengths, advantages, behaviour)
    index, counts, weights, before = (torch.from_numpy(array).to(device) for array in arrays)
    return index, counts, weights, before
