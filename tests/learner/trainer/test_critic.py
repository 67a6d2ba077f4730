"""PPO's critic: what it reads, what trains it, what it leaves alone, and that it survives a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lamer.common.errors import BadInput
from lamer.common.records import Trial
from lamer.common.settings import (
    AdvantageSettings,
    BatchSettings,
    CreditSettings,
    CriticSettings,
    LossSettings,
    OptimizerSettings,
    Settings,
    TrainerSettings,
    TrialSettings,
)
from lamer.learner.credit.samples import Sample
from lamer.learner.trainer import checkpoint
from lamer.learner.trainer.critic import Critic, value_metrics
from lamer.learner.trainer.model.attention.base import PREFIX
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.model.policy import PolicyModel
from lamer.learner.trainer.update import PolicyUpdater, UpdateResult
from tests.learner.builders import completion, play_batch, sample, trial, turn, write_model

SETTINGS = Settings(
    trial=TrialSettings(max_prompt_tokens=40, max_response_tokens=8, max_reflection_tokens=8),
    batch=BatchSettings(updates=40),
    credit=CreditSettings(step_discount=1.0, trial_discount=1.0),
    advantage=AdvantageSettings(estimator="ppo"),
    critic=CriticSettings(learning_rate=1e-2),
    optimizer=OptimizerSettings(learning_rate=1e-3, minibatches=2, pack_tokens=64),
    loss=LossSettings(entropy=0.01, entropy_final=0.0),
    trainer=TrainerSettings(device="cpu"),
)
KINDS = ("head", "separate")


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def configured(kind: str, **critic: object) -> Settings:
    return replace(SETTINGS, critic=replace(SETTINGS.critic, kind=kind, **critic))


def figures(result: UpdateResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def policy_of(updater: PolicyUpdater) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in updater._model.parameters().items()}


def critic_of(updater: PolicyUpdater) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in updater._models.critic.parameters().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def telling_play(step: int) -> list[Trial]:
    """Outcomes that the prompt alone decides: 8 after token 10, 0 after token 11."""
    rng = np.random.default_rng(step)
    batch = []
    for slot in range(8):
        response = completion([5, 10 + slot % 2, 6], [int(rng.integers(20, 24)), 30])
        batch.append(trial([[turn(8.0 if slot % 2 == 0 else 0.0, "s", response)]], slot=slot))
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_read_at_the_prompts_last_token_and_depend_on_nothing_after_it(model_path: Path, kind: str) -> None:
    policy = PolicyModel(model_path, SETTINGS.trainer)
    critic = Critic(configured(kind).critic, SETTINGS.trainer, policy)
    torch.nn.init.normal_(critic.parameters()["head.weight"])
    samples = [sample([1, 2, 3], [4, 5]), sample([1, 2, 3], [9]), sample([1, 2], [3, 4]), sample([7, 2, 3], [4])]
    asked = critic.score(samples, 64)
    assert asked[0] == asked[1]
    assert len({round(value, 4) for value in asked}) == 3
    for item in pack(samples, 64):
        data = policy.prepare(item)
        in_training = critic.values(data, policy.hidden(data)).detach().numpy()
        np.testing.assert_allclose(in_training, asked[item.responses.samples], atol=1e-5)


def test_a_value_is_the_head_on_the_hidden_state_of_a_plain_forward_pass(model_path: Path) -> None:
    policy = PolicyModel(model_path, SETTINGS.trainer)
    critic = Critic(configured("head").critic, SETTINGS.trainer, policy)
    head = critic.parameters()
    torch.nn.init.normal_(head["head.weight"])
    torch.nn.init.constant_(head["head.bias"], 3.0)
    policy.module.set_attn_implementation("eager")
    with torch.no_grad():
        hidden = policy.module.base_model(torch.tensor([[1, 2, 3]])).last_hidden_state[0, -1]
        expected = float(hidden @ head["head.weight"][0] + 3.0)
    policy.module.set_attn_implementation(PREFIX)
    assert critic.score([sample([1, 2, 3], [4, 5])], 64)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_with_bfloat16_values_stay_float32_and_close(model_path: Path, kind: str) -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        settings = replace(configured(kind, learning_rate=3e-2), trainer=TrainerSettings(device="cpu", dtype=dtype))
        updater = PolicyUpdater(settings, model_path)
        for step in range(1, 9):
            updater.update(step, telling_play(step))
        critic = updater._models.critic
        assert {parameter.dtype for parameter in critic.parameters().values()} == {torch.float32}
        found.append(critic.score([sample([5, 10, 6], [20]), sample([5, 11, 6], [20])], 64))
    assert found[0][0] - found[0][1] > 1.0
    np.testing.assert_allclose(found[1], found[0], atol=0.25 * (found[0][0] - found[0][1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_starts_with_no_opinion(model_path: Path, kind: str) -> None:
    found = figures(PolicyUpdater(configured(kind), model_path).update(1, play_batch(0)))
    assert found["critic/value_mean"] == 0.0
    assert found["critic/explained_variance"] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_learns_what_prompts_tell_of_the_outcome(model_path: Path, kind: str) -> None:
    updater = PolicyUpdater(configured(kind, learning_rate=3e-2), model_path)
    found = [figures(updater.update(step, telling_play(step))) for step in range(1, 31)]
    assert found[-1]["critic/explained_variance"] > 0.9
    assert found[-1]["critic/loss"] < 0.1 * found[0]["critic/loss"]
    assert found[-1]["critic/value_mean"] == pytest.approx(4.0, abs=1.0)


def doors_play(step: int, trials: int = 96) -> list[Trial]:
    """Five doors, three episodes: half the players halve what is left, half open one wrong door over and over.

    Prompts show the doors opened before, with the side on which the prize lies. The first door tells the players
    apart, and whoever repeats it never wins afterwards.
    """
    rng = np.random.default_rng(step)
    batch = []
    for slot in range(trials):
        prize, halves = int(rng.integers(5)), bool(rng.integers(2))
        low, high, history, episodes = 0, 4, [], []
        while len(episodes) < 3:
            door = (low + high) // 2 if halves else 4
            won = door == prize
            response = completion([10, *history, 13], [30 + door, 22])
            episodes.append([turn(10.0 if won else 0.0, str(history), response)])
            if won:
                break
            low, high = (low, door - 1) if prize < door else (door + 1, high)
            history += [40 + door, 50 + (prize < door)]
        batch.append(trial(episodes, group=slot, slot=slot, is_solved=won))
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_explains_most_of_what_can_be_explained_of_doors(model_path: Path, kind: str) -> None:
    settings = configured(kind, learning_rate=2e-2, warmup_updates=25)
    updater = PolicyUpdater(settings, model_path)
    found = [figures(updater.update(step, doors_play(step))) for step in range(1, 26)][-1]
    assert found["critic/explained_variance"] > 0.5
    assert found["critic/explained_variance"] > 0.8 * found["critic/explainable_variance"]
    assert found["critic/explained_variance"] < found["critic/explainable_variance"] + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_warms_up_only_the_critic_changes_and_versions_go_on(
    model_path: Path, tmp_path: Path, kind: str
) -> None:
    updater = PolicyUpdater(configured(kind, warmup_updates=2), model_path)
    policy, critic = policy_of(updater), critic_of(updater)
    for step in (1, 2):
        updater.update(step, play_batch(step))
        assert are_equal(policy_of(updater), policy)
        assert not are_equal(critic_of(updater), critic)
    assert updater.version == 2
    updater.update(3, play_batch(3))
    assert not are_equal(policy_of(updater), policy)


def test_the_value_loss_reaches_the_policys_layers_through_a_head_and_not_from_a_model_of_its_own(
    model_path: Path,
) -> None:
    reached = {}
    for kind in KINDS:
        ends = []
        for weight in (0.0, 5.0):
            updater = PolicyUpdater(configured(kind, value_weight=weight), model_path)
            for step in (1, 2):  # the head starts at 0 and lets no gradient through in the first optimizer step
                updater.update(step, telling_play(step))
            ends.append(policy_of(updater))
        reached[kind] = not are_equal(*ends)
    # a model of its own changes the policy too, but only by the values that it gives; hence one update below
    assert reached["head"]
    one, other = (PolicyUpdater(configured("separate", value_weight=weight), model_path) for weight in (0.0, 5.0))
    for updater in (one, other):
        updater.update(1, telling_play(1))
    assert are_equal(policy_of(one), policy_of(other))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_does_not_depend_on_how_samples_are_packed(model_path: Path, kind: str) -> None:
    found = []
    for pack_tokens in (48, 10_000):
        settings = configured(kind, clip=0.5)
        settings = replace(settings, optimizer=replace(settings.optimizer, pack_tokens=pack_tokens))
        updater = PolicyUpdater(settings, model_path)
        results = [figures(updater.update(step, play_batch(step))) for step in (1, 2)]
        names = ("loss/policy", "loss/grad_norm", "critic/loss", "critic/clip_fraction", "critic/value_mean")
        found.append([result[name] for result in results for name in names])
    assert found[0] == pytest.approx(found[1], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_after_a_resume_gives_bit_equal_policy_and_critic(
    model_path: Path, tmp_path: Path, kind: str
) -> None:
    settings = configured(kind, warmup_updates=1, clip=0.5)
    straight = PolicyUpdater(settings, model_path)
    for step in range(1, 5):
        straight.update(step, play_batch(step))
        if step == 2:
            straight.save_checkpoint(checkpoint.folder(tmp_path, step))
    resumed = PolicyUpdater(settings, model_path)
    resumed.load_checkpoint(checkpoint.latest(tmp_path))
    for step in range(3, 5):
        resumed.update(step, play_batch(step))
    assert are_equal(policy_of(resumed), policy_of(straight))
    assert are_equal(critic_of(resumed), critic_of(straight))


def test_a_checkpoint_written_while_the_critic_warms_up_can_be_resumed(model_path: Path, tmp_path: Path) -> None:
    settings = configured("separate", warmup_updates=5)
    updater = PolicyUpdater(settings, model_path)
    updater.update(1, play_batch(1))
    folder = updater.save_checkpoint(checkpoint.folder(tmp_path, 1))
    resumed = PolicyUpdater(settings, model_path)
    resumed.load_checkpoint(folder)
    assert are_equal(critic_of(resumed), critic_of(updater))


def test_a_checkpoint_of_another_critic_is_refused(model_path: Path, tmp_path: Path) -> None:
    updater = PolicyUpdater(configured("head"), model_path)
    folder = updater.save_checkpoint(checkpoint.folder(tmp_path, 1))
    with pytest.raises(BadInput, match="was written under settings"):
        PolicyUpdater(configured("separate"), model_path).load_checkpoint(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_model_holds_nothing_of_the_critic(model_path: Path, tmp_path: Path, kind: str) -> None:
    updater = PolicyUpdater(configured(kind), model_path)
    updater.update(1, play_batch(0))
    updater.save_weights(tmp_path / "v1")
    names = [set(safe_open(folder / "model.safetensors", "pt").keys()) for folder in (model_path, tmp_path / "v1")]
    assert names[0] - {"lm_head.weight"} == names[1]
    saved = updater.save_checkpoint(tmp_path / "checkpoint")
    assert "critic.head.weight" in set(safe_open(saved / "model.safetensors", "pt").keys())


def valued(prompt: int, value: float, target: float) -> Sample:
    return replace(sample([prompt], [2]), value=value, value_target=target)


def test_explained_variance_is_the_share_of_the_targets_spread_that_the_values_foresaw() -> None:
    # targets 0, 4: variance 4; less the values 1, 3 they are -1, 1: variance 1
    found = {metric.name: metric.value for metric in value_metrics([valued(1, 1.0, 0.0), valued(2, 3.0, 4.0)])}
    assert found == pytest.approx({"critic/value_mean": 2.0, "critic/explained_variance": 0.75})


def test_what_varies_after_one_and_the_same_prompt_can_not_be_explained() -> None:
    # targets 0, 2 after prompt 1 and 10 twice after prompt 2: variance 20.75; given the prompt 2 and 0, on average 1
    samples = [valued(1, 1.0, 0.0), valued(1, 1.0, 2.0), valued(2, 10.0, 10.0), valued(2, 10.0, 10.0)]
    found = {metric.name: metric.value for metric in value_metrics([*samples, valued(3, 0.0, 0.0)])}
    assert found["critic/explainable_variance"] == pytest.approx(1 - 1 / 20.75)


def test_equal_targets_leave_no_variance_to_explain() -> None:
    assert [metric.name for metric in value_metrics([valued(1, 1.0, 10.0)] * 2)] == ["critic/value_mean"]
