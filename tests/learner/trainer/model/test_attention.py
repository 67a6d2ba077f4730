"""FlexAttention and masked blocks attend alike: along the paths of a pack, within windows, and to nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lamer.common.errors import BadInput
from lamer.learner.credit.samples import Sample
from lamer.learner.trainer.model.attention.base import AttentionNeeds, prefix_attention
from lamer.learner.trainer.model.attention.flex import BLOCK, FLEX, FlexAttention
from lamer.learner.trainer.model.attention.masked import MASKED, MaskedAttention
from lamer.learner.trainer.model.packing import Pack, pack
from lamer.learner.trainer.model.scorer import PackScorer
from tests.learner.builders import sample, write_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
CPU = torch.device("cpu")
SHAPES = [(4, 4, None), (4, 2, 3), (6, 2, 16), (4, 1, 1)]
"""Query heads, key heads, window."""


def random_pack(seed: int, most: int = 250) -> Pack:
    """Up to a dozen sequences that branch off each other anywhere, of a few tokens to many."""
    rng = np.random.default_rng(seed)
    known = [rng.integers(0, 9, int(rng.integers(1, 30))).tolist()]
    samples: list[Sample] = []
    for _ in range(int(rng.integers(1, 13))):
        begun = known[int(rng.integers(len(known)))]
        prompt = begun[: int(rng.integers(1, len(begun) + 1))] + rng.integers(0, 9, int(rng.integers(0, 9))).tolist()
        response = rng.integers(0, 9, int(rng.integers(1, 12))).tolist()
        known.append(prompt + response)
        samples.append(sample(prompt, response))
    return pack(samples, most)[0]


def is_seen(item: Pack, length: int, window: int | None) -> np.ndarray:
    """Which token sees which, [length, length], told from the paths alone; padding sees itself."""
    seen = np.eye(length, dtype=bool)
    for segment in item.segments:
        for place in range(segment.start, len(segment.path)):
            first = 0 if window is None else max(0, place + 1 - window)
            seen[segment.path[place], segment.path[first : place + 1]] = True
    return seen


def needs(groups: int = 1) -> AttentionNeeds:
    return AttentionNeeds(groups, CPU, torch.float32)


@pytest.mark.parametrize("window", [None, 1, 5, 20])
def test_one_integer_a_token_says_the_visibility_of_every_pair(window: int | None) -> None:
    for seed in range(60):
        item = random_pack(seed)
        plan = FlexAttention(needs(), 300).plan(item)
        assert len(plan.end) == 384
        blocks = plan.mask(window)
        every = torch.arange(384)
        zero = torch.zeros((), dtype=torch.int64)
        found = blocks.mask_mod(zero, zero, every[:, None], every[None])
        expected = is_seen(item, 384, window)
        np.testing.assert_array_equal(found.numpy(), expected)
        computed = blocks.to_dense()[0, 0].bool().numpy()
        needed = expected.reshape(3, BLOCK, 3, BLOCK).any((1, 3))
        np.testing.assert_array_equal(computed, needed)


def test_flex_and_masked_attention_agree_on_200_random_packs() -> None:
    torch.manual_seed(0)
    for seed in range(200):
        heads, key_heads, window = SHAPES[seed % len(SHAPES)]
        item = random_pack(seed)
        flex, masked = FlexAttention(needs()), MaskedAttention(needs(heads // key_heads))
        count, length = len(item.ids), flex.length(len(item.ids))
        query, key, value = (torch.randn(1, width, length, 8) for width in (heads, key_heads, key_heads))
        arguments = {"attention_mask": None, "scaling": 0.3, "sliding_window": window}
        one, _ = prefix_attention(None, query, key, value, attention_plan=flex.plan(item), **arguments)
        own = (states[:, :, :count] for states in (query, key, value))
        other, _ = prefix_attention(None, *own, attention_plan=masked.plan(item), **arguments)
        assert (one[:, :count] - other).abs().max() <= 1e-5, (seed, heads, key_heads, window)
        torch.testing.assert_close(one[0, count:, ::heads], value[0, ::key_heads, count:].transpose(0, 1))


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    """Two layers, the second with a window of 6."""
    return write_model(tmp_path / "m", use_sliding_window=True, sliding_window=6, max_window_layers=1)


def scorer(path: Path, attention: str, pack_tokens: int = 200) -> PackScorer:
    module = AutoModelForCausalLM.from_pretrained(path).eval()
    return PackScorer(module, CPU, torch.float32, pack_tokens, attention=attention)


def test_a_model_scores_packs_alike_with_either(model_path: Path) -> None:
    """Packs of all sizes after each other, so that what one left behind would show in the next."""
    flex, masked = scorer(model_path, FLEX), scorer(model_path, MASKED)
    with torch.no_grad():
        for seed in range(10):
            item = random_pack(seed)
            one, other = (each.score(each.prepare(item)) for each in (flex, masked))
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.entropies, other.entropies, atol=1e-5, rtol=0)


def test_packs_have_one_length_and_their_masks_one_function(model_path: Path) -> None:
    flex = scorer(model_path, FLEX, pack_tokens=300)
    with torch.no_grad():
        first, second = (flex.prepare(random_pack(seed)) for seed in (0, 1))
        flex.score(first)
        flex.score(second)
    assert {data.ids.shape for data in (first, second)} == {(1, 384)}
    assert {data.positions.shape for data in (first, second)} == {(1, 384)}
    for window in (None, 6):
        assert first.plan.masks[window].mask_mod is second.plan.masks[window].mask_mod
    third = flex.prepare(random_pack(2))
    assert set(third.plan.masks) == {None, 6}  # made before any layer asks


def test_a_plan_that_is_computed_after_another_is_loaded_again(model_path: Path) -> None:
    flex = scorer(model_path, FLEX)
    with torch.no_grad():
        data = flex.prepare(random_pack(0))
        alone = flex.score(data).logprobs
        flex.score(flex.prepare(random_pack(1)))
        assert torch.equal(flex.score(data).logprobs, alone)


def test_layers_with_one_window_share_one_mask(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "m", num_hidden_layers=4, use_sliding_window=True, sliding_window=6, max_window_layers=2
    )
    masked = scorer(path, MASKED)
    data = masked.prepare(random_pack(3))
    masked.score(data)
    assert {window for block in data.plan.blocks for window in block.masks} == {None, 6}
    for block in data.plan.blocks:
        kept = {window: mask.data_ptr() for window, mask in block.masks.items()}
        masked.score(data)
        assert {window: mask.data_ptr() for window, mask in block.masks.items()} == kept


@pytest.mark.parametrize("argument", ["softcap", "s_aux", "position_bias"])
def test_what_neither_computes_is_refused(argument: str) -> None:
    states = torch.zeros(1, 1, 4, 8)
    with pytest.raises(BadInput, match=f"attend with {argument}, which is not computed here"):
        prefix_attention(None, states, states, states, None, scaling=1.0, **{argument: 30.0})


def test_layers_that_drop_the_plan_are_refused() -> None:
    states = torch.zeros(1, 1, 4, 8)
    with pytest.raises(BadInput, match="do not hand the plan of a pack on"):
        prefix_attention(None, states, states, states, None, scaling=1.0)
