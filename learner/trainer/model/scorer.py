"""A causal LM that scores packs: hidden states of the flat tokens, then logprobs and entropies at the sampling
temperature.

With dtype bfloat16 and weights in float32 the forward pass runs under autocast. Dropout is off: the engine samples
without it. Only the positions that predict a response token go through the output head, each once however many samples
share it, by one of two ways:

    plain     logits as torch keeps them; in chunks, computed again for the backward pass, where there are many
    linear    `learner.trainer.model.head`: no logits are kept, for a head that is a plain Linear; on CUDA, and wherever
              rows take more than one chunk

A `PackInput` holds masks and lies on the device: it is made for one pack when that is computed, and dropped after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lamer.common.errors import BadInput
from lamer.learner.credit.samples import Sample
from lamer.learner.fitness.allocation import is_out_of_memory
from lamer.learner.fitness.loading import exact_context
from lamer.learner.trainer.model.attention.base import PREFIX, AttentionNeeds, AttentionPlan
from lamer.learner.trainer.model.attention.choice import choose_attention
from lamer.learner.trainer.model.head import Chunk, HeadTask, head_scores
from lamer.learner.trainer.model.layers import arrange_layers, decoder_layers
from lamer.learner.trainer.model.moving import to_device
from lamer.learner.trainer.model.packing import Indices, Pack, pack
from lamer.learner.trainer.ranks.group import ALONE, Ranks
from lamer.learner.trainer.ranks.sharding import Whole, let_go, shard

OutputT = TypeVar("OutputT")

HEAD_VALUES = 1 << 26
"""Most logits at a time; a larger pack computes them in chunks, again for the backward pass."""

CUDA_HEAD_VALUES = 1 << 28
"""The same on CUDA, where small chunks would read and write the head's weight and its gradient too often."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the policy says of the response tokens of a pack, at the sampling temperature.

    logprobs: float32 [N], of the tokens that were sampled. entropies: float32 [N], of the distributions they came from.
    """

    logprobs: torch.Tensor
    entropies: torch.Tensor


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One pass over a pack. hidden: the last hidden states of its rows, [M, hidden size]."""

    hidden: torch.Tensor
    scores: TokenScores


@dataclass(frozen=True, slots=True)
class PackInput:
    """A pack as tensors on the model's device, for one pass over it.

    ids, positions: int64 [1, T], padded as the attention asks for it. The rest is as in `Pack`. chunks: of its rows.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    rows: torch.Tensor
    prompt_rows: torch.Tensor
    token_rows: torch.Tensor
    targets: torch.Tensor
    chunks: tuple[Chunk, ...]
    plan: AttentionPlan
    temperature: float


class PackScorer:
    """A causal LM that scores packs."""

    def __init__(
        self,
        module: PreTrainedModel,
        device: torch.device,
        dtype: torch.dtype,
        pack_tokens: int = 0,
        *,
        attention: str = "",
        ranks: Ranks = ALONE,
    ) -> None:
        """Take over a module.

        Args:
            module: in float32, or in `dtype`.
            device: where it is put.
            dtype: of the forward pass; where it is not the module's, autocast casts.
            pack_tokens: most tokens of a pack; 0 if it isn't known.
            attention: name of the backend, where the device does not decide.
            ranks: that the module is spread over; each of them calls every method with as many packs.
        """
        self.device = device
        self.dtype = dtype
        self.pack_tokens = pack_tokens
        self.module = module
        self._whole = Whole(module)
        self.ranks = ranks
        if (mesh := ranks.mesh()) is not None:
            shard(self._whole, decoder_layers(module), mesh, dtype)
        module.to(device)
        config = module.config
        groups = config.num_attention_heads // (
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        )
        self._attention = choose_attention(AttentionNeeds(groups, device, dtype), pack_tokens, attention)
        self.module.set_attn_implementation(PREFIX)
        self._decoder = cast(torch.nn.Module, module.base_model)
        self._head = cast(torch.nn.Module, module.get_output_embeddings())
        self._is_compiled = False
        self._context = exact_context(config)
        self.vocabulary = int(config.vocab_size)
        self.hidden_size = int(config.hidden_size)

    def arrange(self, *, is_compiled: bool, is_recomputed: bool) -> None:
        """Have the layers run compiled, or computed again for the backward pass; once, after the first pack.

        Raises:
            BadInput: the layers are not found.
        """
        arrange_layers(self.module, is_compiled=is_compiled, is_recomputed=is_recomputed)
        self._is_compiled = is_compiled

    def check_pack(self, pack: Pack) -> None:
        """Refuse a pack that can't be scored.

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

    def prepare(self, pack: Pack) -> PackInput:
        """A pack as tensors on the model's device, with its masks.

        Raises:
            BadInput: see `check_pack`.
        """
        self.check_pack(pack)
        length = self._attention.length(len(pack.ids))
        return PackInput(
            ids=self._move(_padded(pack.ids, length))[None],
            positions=self._move(_padded(pack.positions, length))[None],
            rows=self._move(pack.rows),
            prompt_rows=self._move(pack.responses.prompt_rows),
            token_rows=self._move(pack.token_rows),
            targets=self._move(pack.targets),
            chunks=self._chunks(pack),
            plan=self._attention.plan(pack),
            temperature=pack.temperature,
        )

    def score(self, data: PackInput, *, has_entropy_gradient: bool = True) -> TokenScores:
        """Logprobs and entropies of a pack's response tokens, in the pack's order."""
        return self.evaluate(data, has_entropy_gradient=has_entropy_gradient).scores

    def hidden(self, data: PackInput) -> torch.Tensor:
        """The last hidden states of a pack's rows, [M, hidden size]."""
        found: torch.Tensor = self._run(lambda: self._hidden(data))
        return found

    def evaluate(self, data: PackInput, *, has_entropy_gradient: bool = True) -> Evaluated:
        """A pack's hidden states and scores, of one pass. has_entropy_gradient: whether entropies carry one."""

        def compute() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            hidden = self._hidden(data)
            scores = self._score_hidden(data, hidden, has_entropy_gradient)
            return hidden, scores.logprobs, scores.entropies

        hidden, logprobs, entropies = self._run(compute)
        return Evaluated(hidden, TokenScores(logprobs, entropies))

    def _run(self, compute: Callable[[], OutputT]) -> OutputT:
        """What `compute` does with the module, whose parameters are there meanwhile."""
        found: OutputT = self._whole(compute)
        if not torch.is_grad_enabled():
            let_go(self._whole)
        return found

    def _hidden(self, data: PackInput) -> torch.Tensor:
        data.plan.load()
        with self._precision():
            output = self._decoder(
                input_ids=data.ids, position_ids=data.positions, use_cache=False, attention_plan=data.plan
            )
        states: torch.Tensor = output.last_hidden_state[0].index_select(0, data.rows)
        return states

    def _score_hidden(self, data: PackInput, hidden: torch.Tensor, has_entropy_gradient: bool) -> TokenScores:
        if self._has_linear_head and (self.device.type == "cuda" or len(data.chunks) > 1):
            return self._linear_scores(data, hidden, has_entropy_gradient)
        with self._precision():
            parts = [self._plain_scores(data, hidden, chunk, has_entropy_gradient) for chunk in data.chunks]
        if len(parts) == 1:
            return parts[0]
        logprobs = torch.cat([part.logprobs for part in parts])
        return TokenScores(logprobs, torch.cat([part.entropies for part in parts]))

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is self.module.dtype:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def _move(self, values: Indices) -> torch.Tensor:
        return to_device(values, self.device)

    def _chunks(self, pack: Pack) -> tuple[Chunk, ...]:
        """The pack's rows cut to chunks; token_rows ascend, so the tokens of each are a slice."""
        values = CUDA_HEAD_VALUES if self.device.type == "cuda" else HEAD_VALUES
        size = max(1, values // self.vocabulary)
        starts = range(0, len(pack.rows), size)
        bounds = np.searchsorted(pack.token_rows, (*starts, len(pack.rows))).tolist()
        return tuple(
            Chunk(first, min(first + size, len(pack.rows)), begin, end)
            for first, begin, end in zip(starts, bounds, bounds[1:], strict=False)
        )

    @property
    def _has_linear_head(self) -> bool:
        return type(self._head) is torch.nn.Linear

    def _linear_scores(self, data: PackInput, hidden: torch.Tensor, has_entropy_gradient: bool) -> TokenScores:
        head = cast(torch.nn.Linear, self._head)
        task = HeadTask(
            data.token_rows, data.targets, data.chunks, data.temperature, self.dtype, is_compiled=self._is_compiled
        )
        logprobs, entropies = head_scores(
            hidden, head.weight, head.bias, task, has_entropy_gradient=has_entropy_gradient
        )
        return TokenScores(logprobs, entropies[data.token_rows])

    def _plain_scores(
        self, data: PackInput, hidden: torch.Tensor, chunk: Chunk, has_entropy_gradient: bool
    ) -> TokenScores:
        """Scores of a chunk's tokens, through whatever the head is."""
        tokens = slice(chunk.begin, chunk.end)
        rows = data.token_rows[tokens] - chunk.first
        arguments = (
            hidden[chunk.first : chunk.last],
            rows,
            data.targets[tokens],
            data.temperature,
            has_entropy_gradient,
        )
        if len(data.chunks) == 1:
            return TokenScores(*self._head_scores(*arguments))
        return TokenScores(*checkpoint(self._head_scores, *arguments, use_reentrant=False))

    def _head_scores(
        self,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        has_entropy_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = at_least_float32(self._head(hidden))
        logprobs = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
        of_entropies = logprobs if has_entropy_gradient else logprobs.detach()
        entropies = -(of_entropies.exp() * of_entropies).sum(dim=-1)
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
                if is_out_of_memory(error) or self.ranks.size > 1:  # then it may be another rank's end
                    raise
                raise BadInput(f"{name} can't be trained: {' '.join(str(error).split())[:300]}") from error
            self.module.set_attn_implementation("eager")
            expected = torch.cat([self._plain_logprobs(sample) for sample in samples])
            self.module.set_attn_implementation(PREFIX)
        gap = float((found.sort().values - expected.sort().values).abs().max())
        if not gap <= tolerance:
            raise BadInput(f"{name} can't be trained: logprobs differ by {gap:.3g} from its own forward pass")

    def _plain_logprobs(self, sample: Sample) -> torch.Tensor:
        ids = torch.from_numpy(np.concatenate((sample.prompt_ids, sample.ids))).long().to(self.device)

        def compute() -> torch.Tensor:
            found: torch.Tensor = self.module(input_ids=ids[None], use_cache=False).logits[0]
            return found

        logits = at_least_float32(self._run(compute))
        logprobs = torch.log_softmax(logits[len(sample.prompt_ids) - 1 : -1], dim=-1)
        return logprobs.gather(1, ids[len(sample.prompt_ids) :, None])[:, 0]


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 if they are."""
    return values if values.dtype is torch.float64 else values.float()


def _padded(values: Indices, length: int) -> Indices:
    """Values of the pack's tokens, 0 for padding behind them."""
    if length == len(values):
        return values
    padded = np.zeros(length, dtype=np.int64)
    padded[: len(values)] = values
    return padded
