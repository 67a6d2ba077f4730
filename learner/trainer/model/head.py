"""What a linear output head says of tokens, without keeping a logit.

Logits of a chunk of rows are computed in float32 (operands may be bfloat16; products are summed in float32), read, and
dropped; the backward pass computes them again, chunk by chunk, from the hidden states and the log-sum-exp of each row.
That is the idea of fused linear cross-entropy kernels (Hsu et al., 2024, "Liger Kernel"), in plain torch, with the
entropy beside the logprob. With z a row's logits over its temperature t, p = softmax(z), H = -sum(p log p):

    log p(y) = z[y] - logsumexp(z)        d log p(y) / dz = onehot(y) - p
                                          dH / dz         = -p (log p + H)

A row that predicts several tokens is computed once; what they send back is summed in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows first..last of a pack, and the tokens begin..end that they predict."""

    first: int
    last: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class HeadTask:
    """What is asked of a head.

    token_rows: int64 [N], the row that predicts each token, ascending. targets: int64 [N]. chunks: of all rows, in
    order. dtype: of the operands of matrix products. is_compiled: what is done with logits is compiled.
    """

    token_rows: torch.Tensor
    targets: torch.Tensor
    chunks: tuple[Chunk, ...]
    temperature: float
    dtype: torch.dtype
    is_compiled: bool = False


def head_scores(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, task: HeadTask, *, has_entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs of tokens, and entropies of the rows that predict them.

    Args:
        hidden: [M, hidden size].
        weight: [vocabulary, hidden size].
        bias: [vocabulary], if the head has one.
        task: what is asked.
        has_entropy_gradient: whether entropies carry a gradient; they are computed either way.

    Returns:
        logprobs float32 [N] and entropies float32 [M].
    """
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _HeadScores.apply
    return apply(hidden, weight, bias, task, has_entropy_gradient)


def _read_rows(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exp and entropy of rows, [m] each. The logits become logprobs, in place."""
    normalizers = torch.logsumexp(logits, dim=-1)
    logits -= normalizers[:, None]
    return normalizers, -logits.exp().mul_(logits).sum(dim=-1)


def _send_back(logits: torch.Tensor, normalizers: torch.Tensor, to_logprobs: torch.Tensor) -> None:
    """The logits of rows become what they are sent back, in place, but for the tokens that were sampled.

    Args:
        logits: [m, vocabulary].
        normalizers: their log-sum-exp, [m].
        to_logprobs: gradient of all logprobs of a row, summed, [m].
    """
    logits -= normalizers[:, None]
    logits.exp_().mul_(-to_logprobs[:, None])


def _send_back_both(
    logits: torch.Tensor,
    normalizers: torch.Tensor,
    to_logprobs: torch.Tensor,
    entropies: torch.Tensor,
    to_entropies: torch.Tensor,
) -> None:
    """`_send_back`, with the gradient of the rows' entropies, [m]."""
    logits -= normalizers[:, None]
    slope = (logits + entropies[:, None]).mul_(to_entropies[:, None]).add_(to_logprobs[:, None])
    logits.exp_().mul_(slope.neg_())


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The matrix product in float32, summed in float32, of operands of one dtype."""
    if one.dtype is torch.float32:
        return one @ other
    if one.is_cuda:
        return torch.mm(one, other, out_dtype=torch.float32)
    return one.float() @ other.float()


def _sum_by_row(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_put_((rows,), values, accumulate=True)


class _HeadScores(torch.autograd.Function):
    """See `head_scores`. Keeps hidden states, the weight, and two numbers a row."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        task: HeadTask,
        has_entropy_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty(len(task.targets), dtype=torch.float32, device=hidden.device)
        entropies = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normalizers = torch.empty_like(entropies)
        read_rows = _compiled(_read_rows) if task.is_compiled else _read_rows
        with torch.autocast(hidden.device.type, enabled=False):
            logits_of = _Logits(hidden, weight, bias, task)
            for chunk in task.chunks:
                rows, tokens = slice(chunk.first, chunk.last), slice(chunk.begin, chunk.end)
                logits = logits_of(rows)
                normalizers[rows], entropies[rows] = read_rows(logits)
                logprobs[tokens] = logits[task.token_rows[tokens] - chunk.first, task.targets[tokens]]
        ctx.save_for_backward(hidden, weight, bias, normalizers, entropies)
        ctx.task = task
        ctx.has_entropy_gradient = has_entropy_gradient
        if not has_entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 - torch's
        hidden, weight, bias, normalizers, entropies = ctx.saved_tensors
        task: HeadTask = ctx.task
        by_token, by_row = gradients
        hidden_gradient = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        bias_gradient = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
        summed = _sum_by_row(by_token, task.token_rows, len(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            logits_of = _Logits(hidden, weight, bias, task)
            for chunk in task.chunks:
                rows, tokens = slice(chunk.first, chunk.last), slice(chunk.begin, chunk.end)
                back = logits_of(rows)
                if ctx.has_entropy_gradient:
                    send_back_both = _compiled(_send_back_both) if task.is_compiled else _send_back_both
                    send_back_both(back, normalizers[rows], summed[rows], entropies[rows], by_row[rows])
                else:
                    send_back = _compiled(_send_back) if task.is_compiled else _send_back
                    send_back(back, normalizers[rows], summed[rows])
                places = (task.token_rows[tokens] - chunk.first, task.targets[tokens])
                back.index_put_(places, by_token[tokens], accumulate=True)
                if task.temperature != 1.0:
                    back /= task.temperature
                if bias_gradient is not None:
                    bias_gradient += back.sum(dim=0)
                back = back.to(task.dtype)
                hidden_gradient[rows] = _product(back, logits_of.weight)
                weight_gradient += _product(back.t(), logits_of.hidden[rows])
        typed = weight_gradient.to(weight.dtype)
        return hidden_gradient, typed, None if bias_gradient is None else bias_gradient.to(bias.dtype), None, None


class _Logits:
    """Float32 logits over the temperature, of some rows at a time."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, task: HeadTask) -> None:
        self.hidden = hidden.to(task.dtype)
        self.weight = weight.to(task.dtype)
        self._bias = None if bias is None else bias.float()
        self._temperature = task.temperature

    def __call__(self, rows: slice) -> torch.Tensor:
        logits = _product(self.hidden[rows], self.weight.t())
        if self._bias is not None:
            logits += self._bias
        return logits if self._temperature == 1.0 else logits.div_(self._temperature)
