"""A probe has one period of the layers of a configuration, and windows that its sequences are longer than."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from lamer.common.errors import BadInput
from lamer.deploy.inference.embedded import model as engine
from lamer.learner.fitness.attention import refuse_arguments
from lamer.learner.fitness.probe import WINDOW, make_probe, probe_entries
from lamer.learner.trainer.model import policy as trainer
from lamer.learner.trainer.model.attention import masked

GEMMA = {"num_hidden_layers": 26, "sliding_window": 4096, "intermediate_size": 6912, "vocab_size": 262144}
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def test_a_pattern_of_layers_is_kept_whole_and_windows_are_cut() -> None:
    """Gemma 3: five layers with a window and one without."""
    entries = AutoConfig.for_model("gemma3_text", **GEMMA).to_dict()
    cut = probe_entries(entries)
    assert cut["layer_types"] == entries["layer_types"][:6]
    assert (cut["num_hidden_layers"], cut["sliding_window"]) == (6, WINDOW)
    assert cut["hidden_size"] == entries["hidden_size"]


def test_where_layers_do_not_repeat_one_of_each_kind_is_kept() -> None:
    """Qwen2: a window from layer 20 of 28 on."""
    sizes = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20, "num_hidden_layers": 28}
    cut = probe_entries(AutoConfig.for_model("qwen2", **sizes).to_dict())
    assert cut["layer_types"] == ["full_attention", "sliding_attention"]


def test_a_probe_leaves_the_random_numbers_of_its_process_alone() -> None:
    config = AutoConfig.for_model("qwen3", **SMALL)
    torch.manual_seed(5)
    make_probe(config)
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(5)).item()


def test_a_window_that_is_ignored_shows_on_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 4096 tokens, which no few tokens of a load check are longer than."""
    config = AutoConfig.for_model("mistral", sliding_window=4096, **SMALL)
    trainer.check_layers(config)
    engine.check_layers(config)
    seen = masked.Block._seen
    monkeypatch.setattr(masked.Block, "_seen", lambda block, _: seen(block, None))
    plan = engine.plan_layout
    monkeypatch.setattr(engine, "plan_layout", lambda *arguments: plan(*arguments[:-1], None))
    with pytest.raises(BadInput, match="logprobs differ by"):
        trainer.check_layers(config)
    with pytest.raises(BadInput, match="logits differ by"):
        engine.check_layers(config)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "head_mask", "position_bias", "something_new"])
def test_an_argument_that_is_not_known_is_refused_unless_it_is_none(name: str) -> None:
    refuse_arguments(None, 0.0, None, {name: None, "position_ids": torch.arange(3)})
    with pytest.raises(BadInput, match=f"attend with {name}, which"):
        refuse_arguments(None, 0.0, None, {name: torch.zeros(1)})


def test_a_mask_dropout_and_looking_ahead_are_refused() -> None:
    with pytest.raises(BadInput, match="attend with attention_mask, dropout, is_causal, which"):
        refuse_arguments(torch.zeros(1), 0.1, False, {})
