"""A causal LM that scores packs: hidden states of the flat tokens, then logprobs and entropies at the sampling
temperature.

With dtype bfloat16 the forward pass runs under autocast. Dropout is off: the engine samples without it. Only the
positions that predict a response token go through the output head, each once however many samples share it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lamer.common.errors import BadInput
from lamer.learner.credit.samples import Sample
from lamer.learner.fitness.loading import exact_context
from lamer.learner.trainer.model.attention import SHARED_PREFIX, PrefixLayout, plan_layout
from lamer.learner.trainer.model.packing import Indices, Pack, pack

HEAD_VALUES = 1 << 26
"""Most logits that are kept for the backward pass; a larger pack computes them in chunks, again when needed."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the policy says of the response tokens of a pack, at the sampling temperature.

    logprobs: float32 [N], of the tokens that were sampled. entropies: float32 [N], of the distributions they came from.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor


@dataclass(frozen=True, slots=True)
class PackInput:
    """A pack as tensors on the model's device; made once, used by every pass over the pack.

    prompt_rows: index into rows of the last token of each response's prompt.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    prompt_rows: torch.Tensor
    token_rows: Indices
    targets: torch.Tensor
    layout: PrefixLayout
    temperature: float


class PackScorer:
    """A causal LM that scores packs."""

    def __init__(self, module: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
        """Take over a module. dtype: of the forward pass; where it is not the module's, autocast casts."""
        self.device = device
        self.dtype = dtype
        self.module = module.to(device)
        self.module.set_attn_implementation(SHARED_PREFIX)
        self._decoder = cast(torch.nn.Module, module.base_model)
        self._head = cast(torch.nn.Module, module.get_output_embeddings())
        config = module.config
        self._groups = config.num_attention_heads // (
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        )
        self._context = exact_context(config)
        self.vocabulary = int(config.vocab_size)
        self.hidden_size = int(config.hidden_size)

    def prepare(self, pack: Pack) -> PackInput:
        """A pack as tensors on the model's device.

        Raises:
            BadInput: a token id outside the vocabulary, or a sequence longer than the context.
        """
        longest = int(pack.positions.max()) + 1
        if longest > self._context:
            raise BadInput(f"a prompt and response of {longest} tokens exceed the model's context of {self._context}")
        seen = np.concatenate((pack.ids, pack.targets))
        lowest, highest = int(seen.min()), int(seen.max())
        if lowest < 0 or highest >= self.vocabulary:
            raise BadInput(
                f"token ids {lowest} to {highest} do not fit the vocabulary of {self.vocabulary}: is the engine's "
                "model another one?"
            )
        return PackInput(
            ids=torch.from_numpy(pack.ids).to(self.device)[None],
            positions=torch.from_numpy(pack.positions).to(self.device)[None],
            rows=torch.from_numpy(pack.rows).to(self.device),
            prompt_rows=torch.from_numpy(pack.responses.prompt_rows).to(self.device),
            token_rows=pack.token_rows,
            targets=torch.from_numpy(pack.targets).to(self.device),
            layout=plan_layout(pack, self._groups, self.device),
            temperature=pack.temperature,
        )

    def score(self, data: PackInput) -> TokenScores:
        """Logprobs and entropies of a pack's response tokens, in the pack's order."""
        return self.score_hidden(data, self.hidden(data))

    def hidden(self, data: PackInput) -> torch.Tensor:
        """The last hidden states of a pack's rows, [M, hidden size]."""
        with self._precision():
            output = self._decoder(
                input_ids=data.ids, position_ids=data.positions, use_cache=False, prefix_layout=data.layout
            )
        states: torch.Tensor = output.last_hidden_state[0].index_select(0, data.rows)
        return states

    def score_hidden(self, data: PackInput, hidden: torch.Tensor) -> TokenScores:
        """`score` from the hidden states of `hidden`."""
        with self._precision():
            parts = [self._score_rows(data, hidden, first, last) for first, last in self._chunks(len(hidden))]
        if len(parts) == 1:
            return parts[0]
        logprobs = torch.cat([part.logprobs for part in parts])
        return TokenScores(logprobs, torch.cat([part.entropies for part in parts]))

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is self.module.dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        size = max(1, HEAD_VALUES // self.vocabulary)
        for first in range(0, rows, size):
            yield first, min(first + size, rows)

    def _score_rows(self, data: PackInput, hidden: torch.Tensor, first: int, last: int) -> TokenScores:
        """Scores of the tokens that rows first..last predict; token_rows ascend, so these are a slice."""
        begin, end = np.searchsorted(data.token_rows, (first, last))
        rows = torch.from_numpy(data.token_rows[begin:end] - first).to(self.device)
        arguments = (hidden[first:last], rows, data.targets[begin:end], data.temperature)
        if last - first == len(hidden):
            return TokenScores(*self._head_scores(*arguments))
        return TokenScores(*checkpoint(self._head_scores, *arguments, use_reentrant=False))

    def _head_scores(
        self, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._head(hidden).float()
        logprobs = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
        entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
        return torch.take(logprobs, rows * logprobs.shape[1] + targets), entropies[rows]

    def check(self, samples: Sequence[Sample], tolerance: float) -> None:
        """Compare scores of samples, packed, with transformers' own forward pass of each.

        Catches what an architecture does differently: attention that doesn't go through transformers' interface,
        scaled or capped logits, positions of another kind.

        Raises:
            BadInput: they differ by more than `tolerance`.
        """
        name = type(self.module).__name__
        with torch.no_grad(), self._precision():
            try:
                found = torch.cat([self.score(self.prepare(one)).logprobs for one in pack(samples, 256)])
            except Exception as error:  # what an architecture does with an attention that it does not expect
                raise BadInput(f"{name} can't be trained: {' '.join(str(error).split())[:300]}") from error
            self.module.set_attn_implementation("eager")
            expected = torch.cat([self._plain_logprobs(sample) for sample in samples])
            self.module.set_attn_implementation(SHARED_PREFIX)
        gap = float((found.sort().values - expected.sort().values).abs().max())
        if not gap <= tolerance:
            raise BadInput(f"{name} can't be trained: logprobs differ by {gap:.3g} from its own forward pass")

    def _plain_logprobs(self, sample: Sample) -> torch.Tensor:
        ids = torch.from_numpy(np.concatenate((sample.prompt_ids, sample.ids))).long().to(self.device)
        logits = self.module(input_ids=ids[None], use_cache=False).logits[0].float()
        logprobs = torch.log_softmax(logits[len(sample.prompt_ids) - 1 : -1], dim=-1)
        return logprobs.gather(1, ids[len(sample.prompt_ids) :, None])[:, 0]
