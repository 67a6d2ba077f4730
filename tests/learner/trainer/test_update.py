"""Updates: a function of the trials, the right gradient for any packing, and weights that others can load."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lamer.common.errors import BadInput, RunFailed
from lamer.common.records import Completion, Trial, Turn, VersionSpan
from lamer.common.settings import (
    AdvantageSettings,
    BatchSettings,
    CreditSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    Settings,
    TrainerSettings,
    TrialSettings,
)
from lamer.learner.credit.samples import make_samples
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.optimizer import learning_rate
from lamer.learner.trainer.replay import replay
from lamer.learner.trainer.update import GivenUp, PolicyUpdater, UpdateResult, split_minibatches
from tests.learner.builders import completion, play_batch, reflection, sample, trial, turn, write_model

SETTINGS = Settings(
    trial=TrialSettings(max_prompt_tokens=40, max_response_tokens=8, max_reflection_tokens=8),
    batch=BatchSettings(updates=10),
    optimizer=OptimizerSettings(learning_rate=1e-2, minibatches=2, pack_tokens=64),
    loss=LossSettings(entropy=0.01, entropy_final=0.0),
    trainer=TrainerSettings(device="cpu"),
)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def configured(**optimizer: object) -> Settings:
    return replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, **optimizer))


def parameters(updater: PolicyUpdater) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in updater._model.parameters().items()}


def figures(result: UpdateResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def assert_bit_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_same_trials_give_bit_equal_parameters_in_any_order_of_arrival(model_path: Path) -> None:
    batches = [play_batch(seed) for seed in range(3)]
    one, other = PolicyUpdater(SETTINGS, model_path), PolicyUpdater(SETTINGS, model_path)
    replay(batches, one)
    replay([batch[::-1] for batch in batches], other)
    assert_bit_equal(parameters(one), parameters(other))
    assert one.version == 3


def test_another_seed_deals_the_minibatches_differently(model_path: Path) -> None:
    one = PolicyUpdater(SETTINGS, model_path)
    other = PolicyUpdater(replace(SETTINGS, run=RunSettings(seed=1)), model_path)
    for updater in (one, other):
        updater.update(1, play_batch(0))
    assert not all(torch.equal(a, b) for a, b in zip(parameters(one).values(), parameters(other).values(), strict=True))


@pytest.mark.parametrize("kind", ["decoupled_ppo", "ppo_clip", "uncorrected", "tis", "cispo", "gspo"])
def test_an_update_does_not_depend_on_how_samples_are_packed(model_path: Path, kind: str) -> None:
    batch = play_batch(3)
    settings = replace(SETTINGS, loss=replace(SETTINGS.loss, kind=kind, kl_weight=0.1))
    found = []
    for pack_tokens in (48, 10_000):
        updater = PolicyUpdater(
            replace(settings, optimizer=replace(SETTINGS.optimizer, pack_tokens=pack_tokens)), model_path
        )
        result = figures(updater.update(1, batch))
        found.append((result["loss/policy"], result["loss/entropy"], result["loss/grad_norm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)


def test_the_reference_is_the_model_that_the_run_started_from(model_path: Path) -> None:
    settings = replace(SETTINGS, loss=LossSettings(kl_weight=0.1), optimizer=replace(SETTINGS.optimizer, minibatches=1))
    updater = PolicyUpdater(settings, model_path)
    first, second = (figures(updater.update(step, play_batch(step, version=step - 1))) for step in (1, 2))
    assert first["loss/kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["loss/kl"] > 1e-3


def test_a_strong_pull_to_the_reference_keeps_the_policy_near_it(model_path: Path) -> None:
    divergences = []
    for weight in (1e-6, 10.0):
        updater = PolicyUpdater(replace(SETTINGS, loss=LossSettings(kl_weight=weight)), model_path)
        results = [updater.update(step, play_batch(step, version=step - 1)) for step in range(1, 6)]
        divergences.append(figures(results[-1])["loss/kl"])
    assert divergences[1] < 0.5 * divergences[0]


def test_without_a_reference_there_is_no_second_model_and_no_figure(model_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    assert updater._models.reference is None
    assert updater._models.critic is None
    assert not {"loss/kl", "critic/loss"} & figures(updater.update(1, play_batch(0))).keys()


def test_one_step_equals_adamw_on_the_plain_sum_over_samples(model_path: Path) -> None:
    """The whole path (returns, advantages, packs, loss) against autograd over unpacked samples."""
    batch = play_batch(4)
    settings = replace(
        configured(minibatches=1, max_grad_norm=0.0, weight_decay=0.0),
        loss=LossSettings(kind="decoupled_ppo", entropy=0.02, entropy_final=0.02),
    )
    updater = PolicyUpdater(settings, model_path)
    updater.update(1, batch)

    plain = AutoModelForCausalLM.from_pretrained(model_path, attn_implementation="eager").eval()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0)
    samples = make_samples(batch, 0, CreditSettings(), AdvantageSettings())
    loss = torch.zeros(())
    for one in samples:
        ids = torch.from_numpy(np.concatenate((one.prompt_ids, one.ids))).long()
        logits = plain(input_ids=ids[None]).logits[0, len(one.prompt_ids) - 1 : -1]
        logprobs = torch.log_softmax(logits, dim=-1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        chosen = logprobs.gather(1, ids[len(one.prompt_ids) :, None])[:, 0]
        weights = (chosen.detach() - torch.from_numpy(one.behaviour_logprobs)).exp().clamp(max=5.0)
        ratios = (chosen - chosen.detach()).exp()
        loss = loss - (one.advantage * weights * ratios).sum() - 0.02 * entropies.sum()
    (loss / sum(len(one.ids) for one in samples)).backward()
    optimizer.step()
    for name, parameter in plain.named_parameters():
        # AdamW's first step is lr * sign(gradient): compare where the gradient is not rounding
        sure = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(parameters(updater)[name][sure], parameter.detach()[sure], atol=2e-4, rtol=0)


def test_training_makes_rewarded_responses_likelier(model_path: Path) -> None:
    settings = replace(SETTINGS, trial=replace(SETTINGS.trial, episodes=1), batch=BatchSettings(updates=20))
    updater = PolicyUpdater(settings, model_path)
    probe = [sample([10, 11], [20]), sample([10, 11], [21])]

    def logprobs() -> torch.Tensor:
        with torch.no_grad():
            return updater._model.score(updater._model.prepare(pack(probe, 64)[0])).logprobs

    before = logprobs()
    for step in range(1, 6):
        spans = [VersionSpan(step - 1, 0, 1)]
        good = turn(10.0, "s", completion([10, 11], [21], spans, -4.0))
        bad = turn(0.0, "s", completion([10, 11], [20], spans, -4.0))
        batch = [trial([[good if slot % 2 else bad]], slot=slot, is_solved=bool(slot % 2)) for slot in range(4)]
        updater.update(step, batch)
    after = logprobs()
    assert after[1] - before[1] > 0.1
    assert after[0] < after[1]


def test_metrics_say_what_the_batch_was(model_path: Path) -> None:
    won = trial([[turn(0.0)], [turn(10.0)]], [reflection()], slot=0, is_solved=True)
    lost = trial([[turn(0.0, action=None)], [turn(0.0)], [turn(0.0)]], [reflection(), reflection()], slot=1)
    found = figures(PolicyUpdater(SETTINGS, model_path).update(1, [won, lost]))
    expected = {
        "reward/mean": 5.0,
        "reward/episode_1": 0.0,
        "reward/episode_2": 5.0,
        "reward/episode_3": 0.0,
        "train/pass@1": 0.0,
        "train/pass@2": 0.5,
        "train/pass@3": 0.5,
        "train/valid_actions": 0.8,
        "train/valid_reflections": 1.0,
        "train/response_tokens": 8.0,
        "train/samples": 8.0,
        "staleness/max": 0.0,
        "loss/entropy_coefficient": 0.01,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["engine/logprob_gap_max"] > 0.1  # these behaviour logprobs are made up
    assert 0 < found["engine/importance_ess"] <= 1
    assert found["trainer/tokens_per_second"] > 0


def test_the_gap_to_the_engine_is_measured_on_tokens_of_age_0_and_vanishes_for_the_trainers_own_logprobs(
    model_path: Path,
) -> None:
    updater = PolicyUpdater(configured(minibatches=3), model_path)
    batch = [rescored(updater, item) for item in play_batch(5)]
    found = figures(updater.update(1, batch))
    assert found["engine/logprob_gap_max"] < 1e-5
    assert found["engine/importance_ess"] == pytest.approx(1.0)
    later = figures(updater.update(2, play_batch(6)))  # version 0 play, one update old
    assert later["staleness/mean"] == 1.0
    assert "engine/logprob_gap_max" not in later
    assert later["policy/logprob_shift_mean"] > 0


def rescored(updater: PolicyUpdater, item: Trial) -> Trial:
    """The trial with the trainer's own logprobs as its behaviour logprobs."""

    def rescore(old: Completion) -> Completion:
        one = sample(old.prompt_ids.tolist(), old.ids.tolist())
        with torch.no_grad():
            logprobs = updater._model.score(updater._model.prepare(pack([one], 64)[0])).logprobs
        return msgspec.structs.replace(old, behaviour_logprobs=logprobs.numpy())

    return msgspec.structs.replace(
        item,
        episodes=tuple(
            msgspec.structs.replace(
                episode,
                turns=tuple(msgspec.structs.replace(one, completion=rescore(one.completion)) for one in episode.turns),
            )
            for episode in item.episodes
        ),
        reflections=tuple(msgspec.structs.replace(one, completion=rescore(one.completion)) for one in item.reflections),
    )


def test_a_gradient_that_is_not_finite_ends_the_run_and_changes_nothing(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamer.learner.credit.samples.MAX_REWARD", math.inf)  # for want of another way to come to one
    updater = PolicyUpdater(SETTINGS, model_path)
    before = parameters(updater)
    batch = [trial([[turn(reward)]], slot=slot) for slot, reward in enumerate((1e30, 0.0, 1.0))]
    with pytest.raises(RunFailed, match=r"update 1 is not finite: loss .* gradient norm"):
        updater.update(1, batch)
    assert_bit_equal(parameters(updater), before)
    assert updater.version == 0


COLD = msgspec.structs.replace(completion([1, 2], [3]), temperature=0.0)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (turn(math.nan), "a reward is nan"),
        (turn(1e6 + 1), r"a reward is 1000001\.0"),
        (turn(1.0, response=completion([1, 2], [3], logprob=-3e38)), r"a behaviour logprob is -3\.0"),
        (
            turn(1.0, response=msgspec.structs.replace(completion([1, 2], [3]), temperature=0.0)),
            r"a temperature is 0\.0",
        ),
    ],
)
def test_a_number_that_can_not_be_trained_is_blamed_by_the_name_of_its_trial(
    model_path: Path, odd: Turn, problem: str
) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    with pytest.raises(BadInput, match=rf"^trial run/train/0/1 can't be trained: {problem}"):
        updater.update(1, [trial([[turn(0.0)]], slot=0), trial([[odd]], slot=1)])
    assert updater.version == 0


def test_an_update_that_is_given_up_before_its_first_step_leaves_the_version_as_it_was(model_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    before = parameters(updater)
    updater.give_up()
    with pytest.raises(GivenUp):
        updater.update(1, play_batch(0))
    assert updater.version == 0
    assert_bit_equal(parameters(updater), before)


def test_only_the_next_batch_is_trained(model_path: Path) -> None:
    with pytest.raises(BadInput, match="policy version 0 can be trained on batch 1, got batch 3"):
        PolicyUpdater(SETTINGS, model_path).update(3, play_batch(0))


def test_packs_too_small_for_the_longest_response_are_refused_before_training(model_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pack_tokens 47 .* 48 tokens"):
        PolicyUpdater(configured(pack_tokens=47), model_path)


def test_minibatches_hold_every_sample_once_and_differ_by_one_at_most() -> None:
    samples = [sample([index + 1], [1]) for index in range(11)]
    parts = split_minibatches(samples, 4, seed=0, step=1)
    assert sorted(map(len, parts)) == [2, 3, 3, 3]
    assert sorted(int(one.prompt_ids[0]) for part in parts for one in part) == list(range(1, 12))
    assert len(split_minibatches(samples[:2], 4, seed=0, step=1)) == 2


def test_minibatches_of_trials_keep_the_responses_of_a_trial_together() -> None:
    samples = [replace(sample([index + 1], [1]), trial=index // 3) for index in range(15)]
    parts = split_minibatches(samples, 2, seed=0, step=1, unit="trial")
    trials = [{one.trial for one in part} for part in parts]
    assert sorted(map(len, trials)) == [2, 3]
    assert trials[0] | trials[1] == set(range(5))
    assert sorted(map(len, parts)) == [6, 9]


def test_minibatches_of_trials_compute_a_shared_history_once(model_path: Path) -> None:
    batch = play_batch(0)
    tokens = [
        figures(PolicyUpdater(configured(minibatch_unit=unit), model_path).update(1, batch))["trainer/packed_tokens"]
        for unit in ("response", "trial")
    ]
    assert tokens[1] < tokens[0]


def test_saved_weights_are_a_complete_model_folder_with_the_trained_logprobs(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    updater.update(1, play_batch(0))
    folder = tmp_path / "weights" / "v1"
    (file,) = updater.save_weights(folder)
    assert file.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert {path.name for path in folder.iterdir()} == {path.name for path in model_path.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert_bit_equal(dict(loaded.named_parameters()), parameters(updater))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_saving_weights_again_replaces_the_folder(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(SETTINGS, model_path)
    first = updater.save_weights(tmp_path / "v")
    updater.update(1, play_batch(0))
    second = updater.save_weights(tmp_path / "v")
    assert first != second
    assert second[0].digest == hashlib.sha256((tmp_path / "v" / "model.safetensors").read_bytes()).hexdigest()


def test_an_untied_output_head_is_trained_and_saved(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", tie_word_embeddings=False)
    updater = PolicyUpdater(SETTINGS, path)
    before = parameters(updater)["lm_head.weight"]
    updater.update(1, play_batch(0))
    updater.save_weights(tmp_path / "w")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "w")
    assert torch.equal(loaded.lm_head.weight, parameters(updater)["lm_head.weight"])
    assert not torch.equal(loaded.lm_head.weight, before)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing_after_the_last_update() -> None:
    settings = OptimizerSettings(learning_rate=1.0, warmup_updates=4, schedule="linear")
    rates = [learning_rate(settings, step, updates=10) for step in range(1, 12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:10] == pytest.approx([1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert rates[10] > 0.0, "a run that is prolonged still learns"


def test_a_constant_learning_rate_stays_after_the_warm_up() -> None:
    settings = OptimizerSettings(learning_rate=0.5, warmup_updates=2)
    assert [learning_rate(settings, step, updates=100) for step in (1, 2, 3, 100)] == [0.25, 0.5, 0.5, 0.5]


def test_engine_and_trainer_are_compared_under_the_version_that_sampled(model_path: Path, tmp_path: Path) -> None:
    """After an update the trainer holds version 1, and trials of version 0 still agree with version 0's weights."""
    updater = PolicyUpdater(SETTINGS, model_path)
    batch = [rescored(updater, item) for item in play_batch(5)]
    updater.update(1, batch)
    before = parameters(updater)
    found = figures(UpdateResult(updater.parity(batch, lambda version: model_path)))
    assert found["engine/parity_max"] < 1e-5
    assert found["engine/parity_version"] == 0.0
    assert_bit_equal(parameters(updater), before)

    updater.save_weights(tmp_path / "v1")
    others = figures(UpdateResult(updater.parity(batch, lambda version: tmp_path / "v1")))
    assert others["engine/parity_max"] > 1e-4, "the weights of another version must not agree"
    assert updater.parity(batch, lambda version: tmp_path / "gone") == ()
