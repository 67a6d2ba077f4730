"""Predicted memory beside what is counted on the CPU and what was measured on a card, and the advice that follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lamer.common.config import load
from lamer.common.settings import CriticSettings, OptimizerSettings, TrainerSettings
from lamer.deploy.bench.trainer.trials import TrialShape, made_up_trials
from lamer.learner.credit.samples import make_samples
from lamer.learner.memory.activations import Gathered, LayerRun, layer_bytes
from lamer.learner.memory.advice import TrainerPlan, advice, fit, relief, resolved, room_of
from lamer.learner.memory.architecture import Architecture, architecture_of
from lamer.learner.memory.server import beside_trainer
from lamer.learner.memory.trainer import PLAIN_HEAD, HeadRun, TrainerRun, trainer_memory
from lamer.learner.trainer.model.attention.base import AttentionNeeds
from lamer.learner.trainer.model.attention.masked import MaskedAttention
from lamer.learner.trainer.model.packing import Pack, pack
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.memory.live import LiveBytes

SMALL = Architecture("qwen3-0.6b", "", 596_049_920, 151936, 1024, 3072, 28, 16, 8, 128, 40960, True)
MEDIUM = Architecture("qwen3-4b", "", 4_022_468_096, 151936, 2560, 9728, 36, 32, 8, 128, 40960, True)
MODELS = {
    "qwen3": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": True,
    },
    "llama": {
        "vocab_size": 2048,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": False,
    },
    "wide qwen3": {
        "vocab_size": 300,
        "hidden_size": 128,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
}


def make(name: str, folder: Path) -> Architecture:
    """A random model's folder, and its sizes."""
    config = AutoConfig.for_model(
        model_type=name.rpartition(" ")[2],
        max_position_embeddings=4096,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
        **MODELS[name],
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    names = dict(model.named_parameters())
    return architecture_of(
        config,
        name,
        "",
        sum(each.numel() for each in names.values()),
        is_tied=bool(config.tie_word_embeddings),
        has_head_norms=any("q_norm" in each for each in names),
    )


def predicted(model: Architecture, item: Pack, groups: int, *, is_recomputed: bool, is_small: bool = False) -> float:
    """The trainer's bytes on the CPU in float32, or with small weights, while it computes a pack."""
    dtype = torch.bfloat16 if is_small else torch.float32
    needs = AttentionNeeds(groups, torch.device("cpu"), dtype, {None})
    blocks = MaskedAttention(needs).plan(item).blocks
    tokens = len(item.ids)
    gathered = Gathered(
        sum(block.queries.numel() for block in blocks) / tokens, sum(block.keys.numel() for block in blocks) / tokens
    )
    masks = sum(mask.nbytes for block in blocks for mask in block.masks.values())
    layers = LayerRun(is_small, is_small, False, is_recomputed, gathered)
    return trainer_memory(model, TrainerRun(layers, PLAIN_HEAD, tokens, len(item.rows), is_small, masks=masks)).total


@pytest.mark.parametrize(
    ("name", "recompute", "kind"),
    [
        *((name, recompute, "adamw") for name in MODELS for recompute in ("none", "layers")),
        ("wide qwen3", "layers", "adamw_8bit"),
    ],
)
def test_what_an_update_holds_at_its_peak_is_what_was_predicted(
    name: str, recompute: str, kind: str, tmp_path: Path
) -> None:
    """Every tensor that is alive is counted after every operation: weights, gradients, moments, activations, logits."""
    model = make(name, tmp_path)
    limits = ("trial.max_prompt_tokens=400", "trial.max_response_tokens=150", "trial.max_reflection_tokens=150")
    run = ("optimizer.pack_tokens=1000", "trainer.device=cpu", f"trainer.recompute={recompute}")
    kinds = (f"optimizer.kind={kind}",)
    settings = load([], [*limits, *run, *kinds])
    trials = made_up_trials(TrialShape(groups=1, group_size=2, scale=0.1), model.vocabulary, 0)
    updater = PolicyUpdater(settings, tmp_path)
    updater.update(1, trials)
    optimizer = updater._optimizers[0]
    optimizer.zero_grad()
    live = LiveBytes()
    with live:
        for each in (*optimizer.parameters().values(), *(chunk.data for chunk in optimizer.moments().values())):
            live.show(each)
        updater.update(2, trials)
    samples = make_samples(trials, 0, settings.credit, settings.advantage, None)
    groups = model.heads // model.kv_heads
    packs = pack(samples, settings.optimizer.pack_tokens)
    how = {"is_recomputed": recompute == "layers", "is_small": kind == "adamw_8bit"}
    most = max(predicted(model, each, groups, **how) for each in packs)
    assert most == pytest.approx(live.peak, rel=0.1)


PROTOTYPE_HEAD = HeadRun(values=2048 * 151936, value_bytes=22.0, weight_bytes=6.0)
"""Of the prototype: 2,048 rows at a time, computed again; a bfloat16 logit and five float32 values of its size, and the
head's gradient in bfloat16 and in float32.
"""


@pytest.mark.parametrize(
    ("has_small_weights", "is_recomputed", "measured"),
    [(False, False, 31.7e9), (False, True, 14.6e9), (True, False, 26.8e9)],
)
def test_what_was_measured_on_an_h100_is_predicted(
    has_small_weights: bool, is_recomputed: bool, measured: float
) -> None:
    """Measured on 2026-11-28 with torch 2.11: Qwen3-0.6B, a pack of 16,384 tokens, FlexAttention in compiled layers,
    gradients without an optimizer; float32 weights under autocast, the same with layers computed again, bfloat16
    weights. CUDA's allocator counted the peak.
    """
    layers = LayerRun(True, has_small_weights, True, is_recomputed, None)
    run = TrainerRun(layers, PROTOTYPE_HEAD, 16384, 12000, has_small_weights, has_optimizer=False)
    assert trainer_memory(SMALL, run).total == pytest.approx(measured, rel=0.1)


def plan(**changes: object) -> TrainerPlan:
    base = TrainerPlan(OptimizerSettings(pack_tokens=16384), TrainerSettings(), None, False, 3072, True)
    return replace(base, **changes)


def test_a_layers_bytes_by_hand() -> None:
    compiled = LayerRun(True, False, True, False, None)
    assert layer_bytes(MEDIUM, compiled) == 6 * 2560 + 6 * 9728 + 6 * 4096 + 6 * 1024 == 104_448
    assert layer_bytes(MEDIUM, replace(compiled, has_small_weights=True)) == 104_448 - 2 * 2560
    assert layer_bytes(replace(MEDIUM, has_head_norms=False), compiled) == 104_448 - 2 * (4096 + 1024)


def test_the_papers_model_with_all_weights_trained_leaves_room_for_its_server() -> None:
    """Bfloat16 weights, 8-bit states, recomputed: at most 40 GB, and a server of 17.7 GB fits beside it."""
    small = plan(
        optimizer=OptimizerSettings(kind="adamw_8bit", pack_tokens=16384), trainer=TrainerSettings(recompute="layers")
    )
    memory = small.memory(MEDIUM)
    assert memory.weights == 2 * MEDIUM.parameters
    assert memory.moments == pytest.approx(2 * MEDIUM.parameters, rel=0.02)
    assert memory.total <= 40e9
    assert memory.total <= room_of(80e9, beside_trainer(MEDIUM, 65536))


def test_auto_computes_layers_again_where_they_do_not_fit_otherwise() -> None:
    assert resolved(plan(), SMALL, room_of(80e9)).trainer.recompute == "none"
    assert resolved(plan(), SMALL, room_of(32e9)).trainer.recompute == "layers"
    assert resolved(plan(is_cuda=False), SMALL, 1.0).trainer.recompute == "none"
    assert resolved(plan(trainer=TrainerSettings(recompute="none")), SMALL, 1.0).trainer.recompute == "none"


def test_the_cheapest_change_that_is_enough_is_named() -> None:
    kept = plan(trainer=TrainerSettings(recompute="none"))
    told = advice(kept, SMALL, room_of(32e9), "the card")
    assert told.startswith("the trainer needs 33.")
    assert "the card has 29.0 GB for it: set trainer.recompute=layers (then 1" in told
    found = fit(kept, MEDIUM, room_of(80e9))
    assert found is not None
    assert found.changes == ("trainer.recompute=layers", "optimizer.pack_tokens=3072")
    assert advice(plan(), SMALL, room_of(80e9), "the card") == ""
    tight = fit(kept, MEDIUM, room_of(38e9))
    assert tight is not None
    assert tight.changes == ("trainer.recompute=layers", "optimizer.kind=adamw_8bit")
    smaller = fit(kept, MEDIUM, room_of(34e9))
    assert smaller is not None
    assert smaller.changes[-1] == "optimizer.pack_tokens=3072"


def test_two_models_are_one_where_the_critic_stands_on_the_policy() -> None:
    separate = plan(critic=CriticSettings(kind="separate"))
    room = room_of(52e9)
    found = fit(separate, MEDIUM, room)
    assert found is not None
    assert found.changes[-1] == "critic.kind=head"
    assert "take a card with more memory or a smaller model" in advice(separate, MEDIUM, room_of(20e9), "the card")


def test_where_memory_ran_out_the_first_change_that_saves_a_fifth_is_named() -> None:
    kept = plan(trainer=TrainerSettings(recompute="none"))
    assert relief(kept, SMALL) == ("trainer.recompute=layers",)
    assert relief(plan(trainer=TrainerSettings(recompute="layers")), MEDIUM) == ("optimizer.kind=adamw_8bit",)
    least = plan(
        optimizer=OptimizerSettings(kind="adamw_8bit", pack_tokens=3072), trainer=TrainerSettings(recompute="layers")
    )
    assert relief(least, MEDIUM) == ()
