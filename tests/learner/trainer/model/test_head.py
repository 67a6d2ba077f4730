"""The head that keeps no logits says and sends back what torch's own operations do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lamer.common.settings import TrainerSettings
from lamer.learner.trainer.model import scorer as scorer_module
from lamer.learner.trainer.model.head import Chunk, HeadTask, head_scores
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import PolicyModel
from tests.learner.builders import VOCABULARY, sample, write_model

ROWS, WIDTH = 23, 16
TOKEN_ROWS = torch.tensor(sorted([*range(ROWS), 3, 3, 3, 7, 22, 22]))  # some rows predict several tokens


def task(chunk: int, temperature: float, dtype: torch.dtype) -> HeadTask:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, VOCABULARY, (len(TOKEN_ROWS),), generator=generator)
    targets[4] = targets[3]  # two samples that are told the same token by the same row
    chunks = []
    for first in range(0, ROWS, chunk):
        last = min(first + chunk, ROWS)
        begin, end = torch.searchsorted(TOKEN_ROWS, torch.tensor([first, last])).tolist()
        chunks.append(Chunk(first, last, begin, end))
    return HeadTask(TOKEN_ROWS, targets, tuple(chunks), temperature, dtype)


def parts(dtype: torch.dtype, has_bias: bool) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randn(count, WIDTH, generator=generator) for count in (ROWS, VOCABULARY))
    bias = torch.randn(VOCABULARY, generator=generator) if has_bias else None
    return [part if part is None else part.to(dtype).requires_grad_() for part in (hidden, weight, bias)]


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, asked: HeadTask
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
    logprobs = torch.log_softmax(logits / asked.temperature, dim=-1)
    return logprobs[asked.token_rows, asked.targets], -(logprobs.exp() * logprobs).sum(-1)


def gradients(
    scores: tuple[torch.Tensor, torch.Tensor], inputs: list[torch.Tensor | None], entropy: float
) -> list[torch.Tensor]:
    slopes = torch.linspace(-1.0, 2.0, len(TOKEN_ROWS))
    loss = (slopes * scores[0]).sum()
    if entropy:
        loss = loss + entropy * scores[1].square().sum()
    return list(torch.autograd.grad(loss, [part for part in inputs if part is not None]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("chunk", "temperature", "has_bias", "entropy"),
    [(23, 1.0, False, 0.0), (4, 0.7, True, 0.3), (1, 1.3, False, 0.3), (10, 1.0, True, 0.0)],
)
def test_scores_and_gradients_are_those_of_a_plain_head(
    dtype: torch.dtype, chunk: int, temperature: float, has_bias: bool, entropy: float
) -> None:
    asked, inputs = task(chunk, temperature, dtype), parts(dtype, has_bias)
    found = head_scores(*inputs, asked, has_entropy_gradient=bool(entropy))
    expected = plain(*inputs, asked)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-6)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for one, other in zip(gradients(found, inputs, entropy), gradients(expected, inputs, entropy), strict=True):
        assert one.dtype is dtype
        torch.testing.assert_close(one.float(), other.float(), atol=tolerance * float(other.abs().max()), rtol=0)


def test_under_autocast_a_float32_weight_counts_as_rounded_and_its_gradient_is_float32() -> None:
    inputs = parts(torch.float32, has_bias=False)
    asked = task(5, 1.0, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = head_scores(*inputs, asked, has_entropy_gradient=True)
    rounded = [part if part is None else part.detach().bfloat16().float() for part in inputs]
    for one, other in zip(found, plain(*rounded, asked), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-6)
    assert all(gradient.dtype is torch.float32 for gradient in gradients(found, inputs, 0.1))


@pytest.mark.parametrize("has_entropy_gradient", [True, False])
def test_no_logits_are_kept(has_entropy_gradient: bool) -> None:
    """Nothing as large as a chunk's logits, the weight itself aside."""
    inputs = parts(torch.float32, has_bias=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head_scores(*inputs, task(23, 1.0, torch.float32), has_entropy_gradient=has_entropy_gradient)
    foreign = [each for each in kept if all(each is not part for part in inputs)]
    assert foreign
    assert all(each.numel() == ROWS for each in foreign)


def scores_of(path: Path, tokens: int, **flags: bool) -> tuple[PolicyModel, scorer_module.TokenScores]:
    policy = PolicyModel(path, TrainerSettings(device="cpu"))
    samples = [sample([1, 2, 3], [4 + place, *range(9)], temperature=0.7) for place in range(tokens // 10)]
    return policy, policy.score(policy.prepare(pack(samples, 1000)[0]), **flags)


@pytest.mark.parametrize("values", [7 * VOCABULARY, 1000 * VOCABULARY])
def test_without_an_entropy_coefficient_entropies_are_told_and_have_no_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    """In chunks and at once."""
    path = write_model(tmp_path / "m")
    expected = scores_of(path, 40)[1]
    monkeypatch.setattr(scorer_module, "HEAD_VALUES", values)
    found = scores_of(path, 40, has_entropy_gradient=False)[1]
    assert expected.entropies.requires_grad
    assert found.logprobs.requires_grad
    assert not found.entropies.requires_grad
    torch.testing.assert_close(found.entropies, expected.entropies)


def test_a_head_that_is_no_plain_linear_takes_the_plain_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that halves its logits, in chunks: its own forward is what counts."""

    class Halved(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) / 2

    path = write_model(tmp_path / "m")
    whole, expected = scores_of(path, 40)
    monkeypatch.setattr(scorer_module, "HEAD_VALUES", 7 * VOCABULARY)
    halved = Halved(whole.hidden_size, VOCABULARY, bias=False)
    halved.weight = whole._head.weight
    samples = [sample([1, 2, 3], [4 + place, *range(9)], temperature=1.4) for place in range(4)]
    with torch.no_grad():
        doubled = whole.score(whole.prepare(pack(samples, 1000)[0]))
    whole._head = halved
    samples = [sample([1, 2, 3], [4 + place, *range(9)], temperature=0.7) for place in range(4)]
    found = whole.score(whole.prepare(pack(samples, 1000)[0]))
    torch.testing.assert_close(found.logprobs.detach(), doubled.logprobs, atol=1e-5, rtol=0)
    assert not torch.allclose(found.logprobs, expected.logprobs)
    found.logprobs.sum().backward()
