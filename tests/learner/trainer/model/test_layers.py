"""Layers that are compiled or computed again give the same gradients, and keep what they say they keep."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from transformers import AutoModelForCausalLM

from lamer.common.errors import BadInput
from lamer.common.settings import (
    AdvantageSettings,
    BatchSettings,
    CriticSettings,
    LossSettings,
    OptimizerSettings,
    Settings,
    TrainerSettings,
    TrialSettings,
)
from lamer.learner.trainer.model.attention.flex import FLEX
from lamer.learner.trainer.model.attention.masked import MASKED
from lamer.learner.trainer.model.layers import arrange_layers, choose_compile, choose_recompute, decoder_layers
from lamer.learner.trainer.model.packing import Pack, pack
from lamer.learner.trainer.model.policy import PolicyModel
from lamer.learner.trainer.model.scorer import PackInput, PackScorer
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import play_batch, sample, write_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
CPU = torch.device("cpu")
WINDOWED = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
SETTINGS = Settings(
    trial=TrialSettings(max_prompt_tokens=40, max_response_tokens=8, max_reflection_tokens=8),
    batch=BatchSettings(updates=4),
    optimizer=OptimizerSettings(learning_rate=1e-3, minibatches=2, pack_tokens=64),
    loss=LossSettings(entropy=0.01),
    trainer=TrainerSettings(device="cpu"),
)


def scorer(path: Path, attention: str = MASKED) -> PackScorer:
    module = AutoModelForCausalLM.from_pretrained(path).eval()
    return PackScorer(module, CPU, torch.float32, 128, attention=attention)


def packs(count: int) -> list[Pack]:
    samples = [
        [sample([1, 2, *range(3, 9 + 2 * which)], [10 + place, *range(place, 12)]) for place in range(6)]
        for which in range(count)
    ]
    return [pack(each, 128)[0] for each in samples]


def gradients(one: PackScorer, items: list[Pack]) -> list[torch.Tensor]:
    one.module.zero_grad()
    for item in items:
        scores = one.score(one.prepare(item))
        (scores.logprobs.sum() + 0.1 * scores.entropies.sum()).backward()
    return [parameter.grad.clone() for parameter in one.module.parameters()]


@pytest.mark.parametrize("estimator", ["gigpo", "ppo"])
@pytest.mark.parametrize("sizes", [{}, WINDOWED])
def test_updates_whose_layers_are_computed_again_are_bit_equal(
    tmp_path: Path, estimator: str, sizes: dict[str, object]
) -> None:
    """With PPO the critic has layers of its own, which read the same packs."""
    path = write_model(tmp_path / "m", **sizes)
    base = replace(SETTINGS, advantage=AdvantageSettings(estimator=estimator), critic=CriticSettings(kind="separate"))
    found = []
    for recompute in ("none", "layers"):
        updater = PolicyUpdater(replace(base, trainer=TrainerSettings(device="cpu", recompute=recompute)), path)
        for step in (1, 2):
            updater.update(step, play_batch(step, version=step - 1))
        found.append({name: value for one in updater._optimizers for name, value in one.parameters().items()})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class Kept:
    """What is kept for the backward pass beside parameters: each tensor once."""

    def __init__(self, one: PackScorer) -> None:
        self.tensors: dict[int, torch.Tensor] = {}
        self._parameters = {parameter.data_ptr() for parameter in one.module.parameters()}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in self._parameters:
            self.tensors[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def values(self, least: int = 0) -> int:
        """How many values the tensors of at least so many hold."""
        return sum(each.untyped_storage().nbytes() // each.element_size() for each in self.large(least))

    def large(self, least: int) -> list[torch.Tensor]:
        return [each for each in self.tensors.values() if each.untyped_storage().nbytes() >= least * 4]


def kept_of(path: Path, tokens: int, *, is_recomputed: bool) -> tuple[Kept, PackInput]:
    """Of one pack of so many tokens: a prompt of half of them, and two responses of a quarter."""
    one = scorer(path)
    prompt = [place % 60 for place in range(tokens // 2)]
    samples = [sample(prompt, [first, *([5] * (tokens // 4))]) for first in (1, 2)]
    (item,) = pack(samples, 2 * tokens)
    data = one.prepare(item)
    arrange_layers(one.module, is_compiled=False, is_recomputed=is_recomputed)
    kept = Kept(one)
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        one.hidden(data)
    return kept, data


@pytest.mark.parametrize("layers", [2, 4])
def test_beside_one_mask_a_window_nothing_kept_grows_with_the_square_of_a_pack(tmp_path: Path, layers: int) -> None:
    sizes = {
        "num_hidden_layers": layers,
        "sliding_window": 32,
        "use_sliding_window": True,
        "max_position_embeddings": 4096,
    }
    path = write_model(tmp_path / "m", **sizes, max_window_layers=layers // 2)
    few, many = (kept_of(path, tokens, is_recomputed=False) for tokens in (512, 1024))
    masks = [
        {mask.untyped_storage().data_ptr() for block in data.plan.blocks for mask in block.masks.values()}
        for _, data in (few, many)
    ]
    rest = []
    for (kept, data), own in zip((few, many), masks, strict=True):
        assert len(own) == 2 * len(data.plan.blocks)
        assert own <= set(kept.tensors)
        for pointer in own:
            del kept.tensors[pointer]
        rest.append(kept.values())
    assert rest[1] < 2.1 * rest[0]


def test_of_a_layer_that_is_computed_again_its_input_alone_is_kept(tmp_path: Path) -> None:
    kept = {}
    for layers in (2, 5):
        path = write_model(tmp_path / f"m{layers}", num_hidden_layers=layers, max_position_embeddings=4096)
        found, data = kept_of(path, 512, is_recomputed=True)
        kept[layers] = found.values()
    assert kept[5] - kept[2] == 3 * data.ids.numel() * 32


def test_layers_are_computed_again_only_where_a_gradient_is_wanted(tmp_path: Path) -> None:
    one = scorer(write_model(tmp_path / "m"))
    (item,) = packs(1)
    calls = []
    first = decoder_layers(one.module)[0]
    first.self_attn.register_forward_hook(lambda *_: calls.append(1))
    arrange_layers(one.module, is_compiled=False, is_recomputed=True)
    with torch.no_grad():
        one.score(one.prepare(item))
    assert len(calls) == 1
    one.score(one.prepare(item)).logprobs.sum().backward()
    assert len(calls) == 3


@pytest.fixture
def flex_has_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses the backward pass of FlexAttention on a CPU, where it is slow; its unfused form has one."""
    module = sys.modules["torch.nn.attention.flex_attention"]
    monkeypatch.setattr(module, "_validate_device", lambda *_: None)


@pytest.mark.usefixtures("flex_has_gradients")
def test_layers_as_on_a_card_are_compiled_once_a_kind_and_send_back_the_same(tmp_path: Path) -> None:
    """FlexAttention at one length, inside layers that are compiled and computed again, over packs of three lengths."""
    path = write_model(tmp_path / "m", num_hidden_layers=4, **WINDOWED | {"max_window_layers": 2})
    items = packs(3)
    assert len({len(item.ids) for item in items}) == 3
    expected = gradients(scorer(path), items)
    graphs = []

    def compiler(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(module)
        return aot_eager(module, inputs)

    card = scorer(path, FLEX)
    with torch.no_grad():
        card.score(card.prepare(items[0]))
    arrange_layers(card.module, is_compiled=True, is_recomputed=True, backend=compiler)
    found = gradients(card, items)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * max(1.0, float(other.abs().max())), rtol=0)
    assert len(graphs) == 2  # layers with the window, and without


@pytest.mark.usefixtures("flex_has_gradients")
def test_a_pack_is_computed_again_within_itself_though_another_was_loaded_meanwhile(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m")
    items = packs(2)
    expected = gradients(scorer(path), items[:1])
    card = scorer(path, FLEX)
    arrange_layers(card.module, is_compiled=False, is_recomputed=True)
    scores = card.score(card.prepare(items[0]))
    with torch.no_grad():
        card.score(card.prepare(items[1]))
    (scores.logprobs.sum() + 0.1 * scores.entropies.sum()).backward()
    for one, other in zip(card.module.parameters(), expected, strict=True):
        torch.testing.assert_close(one.grad, other, atol=2e-5 * max(1.0, float(other.abs().max())), rtol=0)


@pytest.mark.parametrize(
    ("device", "compiled", "recomputed", "expected"),
    [
        ("cpu", "auto", "auto", (False, False)),
        ("cpu", "auto", "layers", (False, True)),
        ("cuda", "auto", "auto", (True, True)),
        ("cuda", "none", "none", (False, False)),
    ],
)
def test_what_auto_stands_for(device: str, compiled: str, recomputed: str, expected: tuple[bool, bool]) -> None:
    settings = TrainerSettings(compile=compiled, recompute=recomputed)
    where = torch.device(device)
    assert (choose_compile(settings, where), choose_recompute(settings, where)) == expected


def test_a_model_whose_layers_are_not_found_is_refused_with_the_settings_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m")
    policy = PolicyModel(path, TrainerSettings(device="cpu"))
    policy.module.config.num_hidden_layers = 7
    with pytest.raises(BadInput, match=r"its 7 layers stand in no list: set trainer\.compile=none"):
        policy.arrange(is_compiled=False, is_recomputed=True)


def test_one_pack_at_a_time_has_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all passes of an update: proximal, reference, gradient."""
    prepare, alive, most = PackScorer.prepare, weakref.WeakSet[torch.Tensor](), []

    def prepared(self: PackScorer, item: Pack) -> PackInput:
        most.append(len(alive))
        data = prepare(self, item)
        alive.add(data.ids)
        return data

    monkeypatch.setattr(PackScorer, "prepare", prepared)
    settings = replace(SETTINGS, loss=replace(SETTINGS.loss, kl_weight=0.1))
    updater = PolicyUpdater(settings, write_model(tmp_path / "m"))
    most.clear()
    updater.update(1, play_batch(0))
    assert len(most) > 6
    assert max(most) == 0
