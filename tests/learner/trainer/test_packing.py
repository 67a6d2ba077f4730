"""Packs share prefixes without changing a logprob or a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM, PreTrainedModel

from lamer.common.errors import BadInput, Missing
from lamer.common.settings import AdvantageSettings, CreditSettings, TrainerSettings
from lamer.learner.credit.samples import Sample, make_samples
from lamer.learner.trainer.model import scorer as scorer_module
from lamer.learner.trainer.model.packing import Pack, pack
from lamer.learner.trainer.model.policy import PolicyModel
from lamer.learner.trainer.model.scorer import TokenScores
from tests.learner.builders import VOCABULARY, play_batch, sample, write_model

CPU = TrainerSettings(device="cpu")


def varied_samples(seed: int = 0, temperature: float = 1.0) -> list[Sample]:
    """Prompts of 1 to 40 tokens and responses of 1 to 9, some sharing prompts, some whole sequences, some nothing."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCABULARY, size).tolist() for size in (1, 3, 17, 40)]
    prompts += [[*prompts[3][:25], 5, 6], [*prompts[2], 7]]
    samples = []
    for prompt in prompts:
        for size in (1, 2, 5, 9):
            response = rng.integers(0, VOCABULARY, size).tolist()
            samples += [sample(prompt, response, float(rng.normal()), temperature) for _ in range(1 + size % 2)]
    return samples


def plain_logprobs(model: PreTrainedModel, one: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample's logprobs and entropies by transformers' own forward pass."""
    ids = torch.from_numpy(np.concatenate((one.prompt_ids, one.ids))).long()
    logits = model(input_ids=ids[None], use_cache=False).logits[0, len(one.prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits / one.temperature, dim=-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, ids[len(one.prompt_ids) :, None])[:, 0], entropies


def by_token(
    packs: Sequence[Pack], scores: Sequence[TokenScores]
) -> dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]:
    """Packed scores, by the sequence of tokens that they belong to."""
    found = {}
    for item, score in zip(packs, scores, strict=True):
        paths = {}
        for segment in item.segments:
            paths.update({int(flat): segment.path[: place + 1] for place, flat in enumerate(segment.path)})
        for row, target, logprob, entropy in zip(
            item.token_rows, item.targets, score.logprobs, score.entropies, strict=True
        ):
            tokens = (*item.ids[paths[int(item.rows[row])]].tolist(), int(target))
            found[tokens] = (logprob, entropy)
    return found


@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_scores_and_gradients_equal_a_plain_forward_pass_of_each_sample(
    tmp_path: Path, heads: tuple[int, int], attention: str
) -> None:
    path = write_model(tmp_path / "m", num_attention_heads=heads[0], num_key_value_heads=heads[1])
    assert_equal_to_plain(path, attention)


def assert_equal_to_plain(path: Path, attention: str) -> None:
    """Scores and gradients of packs are those of transformers' own forward pass of each sample."""
    policy = PolicyModel(path, CPU)
    plain = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention).eval()
    samples = varied_samples(temperature=0.7)
    packs = pack(samples, 1000)
    scores = [policy.score(policy.prepare(item)) for item in packs]
    packed = by_token(packs, scores)
    total_plain = torch.zeros(())
    for one in samples:
        logprobs, entropies = plain_logprobs(plain, one)
        total_plain = total_plain + (one.advantage * logprobs + 0.1 * entropies).sum()
        tokens = np.concatenate((one.prompt_ids, one.ids)).tolist()
        for position in range(len(one.ids)):
            logprob, entropy = packed[tuple(tokens[: len(one.prompt_ids) + position + 1])]
            assert logprob.item() == pytest.approx(logprobs[position].item(), abs=1e-5)
            assert entropy.item() == pytest.approx(entropies[position].item(), abs=1e-5)
    total = sum(
        (torch.from_numpy(item.tokens.advantages) * score.logprobs + 0.1 * score.entropies).sum()
        for item, score in zip(packs, scores, strict=True)
    )
    total.backward()
    total_plain.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(policy.parameters()[name].grad, parameter.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("first", [0, 1])
def test_layers_with_a_sliding_window_see_no_further(tmp_path: Path, first: int) -> None:
    """Prompts of up to 40 tokens under a window of 16, in all layers or in the second of two."""
    sizes = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": first}
    assert_equal_to_plain(write_model(tmp_path / "m", **sizes), "eager")


def test_a_prompt_that_samples_share_stands_once_in_the_pack() -> None:
    prompt = list(range(30))
    (item,) = pack([sample(prompt, [40 + i, 50, 60]) for i in range(8)], 1000)
    assert len(item.ids) == 30 + 8 * 2  # the last token of a response predicts nothing
    assert len(item.targets) == 8 * 3
    assert len(item.rows) == 1 + 8 * 2  # the first token of all eight is predicted at one position


def test_prompts_that_begin_alike_share_their_beginning() -> None:
    (item,) = pack([sample([1, 2, 3, 4], [9]), sample([1, 2, 3, 5, 6], [9]), sample([1, 2, 7], [9])], 1000)
    assert sorted(item.ids.tolist()) == [1, 2, 3, 4, 5, 6, 7]


def test_equal_samples_are_computed_once_and_counted_each() -> None:
    (item,) = pack([sample([1, 2], [3, 4], advantage) for advantage in (1.0, -2.0, 5.0)], 100)
    assert len(item.ids) == 3
    assert sorted(item.tokens.advantages.tolist()) == [-2.0, -2.0, 1.0, 1.0, 5.0, 5.0]


@pytest.mark.parametrize("limit", [49, 80, 200, 100_000])
def test_packs_hold_every_token_once_within_their_limit(limit: int) -> None:
    samples = varied_samples()
    packs = pack(samples, limit)
    assert all(len(item.ids) <= limit for item in packs)
    expected = sorted(float(one.advantage) for one in samples for _ in one.ids)
    found = sorted(value for item in packs for value in item.tokens.advantages.tolist())
    assert found == pytest.approx(expected, abs=1e-6)
    assert all((np.diff(item.token_rows) >= 0).all() for item in packs)


def test_attended_positions_of_a_pack_are_bounded_too() -> None:
    prompt = list(range(60))
    samples = [sample([*prompt, first, second], [1]) for first in range(60) for second in range(60)]
    packs = pack(samples, 4000)
    assert len(packs) > 1
    assert all(sum(len(segment.path) for segment in item.segments) <= 8 * 4000 for item in packs)


def test_packs_do_not_depend_on_the_order_of_samples_that_differ() -> None:
    samples = [sample([1, 2], [first, second]) for first in range(5) for second in range(5)]
    one, other = pack(samples, 1000), pack(samples[::-1], 1000)
    assert [item.ids.tolist() for item in one] == [item.ids.tolist() for item in other]


def test_every_token_knows_its_response_and_every_response_the_end_of_its_prompt() -> None:
    samples = [
        replace(one, value=float(place), value_target=-float(place)) for place, one in enumerate(varied_samples())
    ]
    seen = []
    for item in pack(samples, 200):
        of = item.responses
        for response, place in enumerate(of.samples.tolist()):
            one = samples[place]
            assert item.targets[item.tokens.responses == response].tolist() == one.ids.tolist()
            assert of.lengths[response] == len(one.ids)
            assert (of.values[response], of.targets[response]) == (place, -place)
            last = item.rows[of.prompt_rows[response]]
            assert item.ids[last] == one.prompt_ids[-1]
            assert item.positions[last] == len(one.prompt_ids) - 1
        seen += of.samples.tolist()
    assert sorted(seen) == list(range(len(samples)))


def test_samples_of_two_temperatures_never_share_a_pack() -> None:
    packs = pack([sample([1, 2], [3], temperature=1.0), sample([1, 2], [3], temperature=0.5)], 100)
    assert sorted(item.temperature for item in packs) == [0.5, 1.0]


def test_a_sample_longer_than_a_pack_is_refused_with_the_setting_to_raise() -> None:
    with pytest.raises(BadInput, match=r"optimizer\.pack_tokens 4"):
        pack([sample([1, 2, 3, 4], [5, 6])], 4)


def test_a_head_computed_in_chunks_gives_the_same_scores_and_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PolicyModel(write_model(tmp_path / "m"), CPU)
    (item,) = pack(varied_samples(), 10_000)

    def run() -> tuple[TokenScores, list[torch.Tensor]]:
        policy.module.zero_grad()
        scores = policy.score(policy.prepare(item))
        (scores.logprobs.sum() + scores.entropies.sum()).backward()
        return scores, [parameter.grad.clone() for parameter in policy.parameters().values()]

    whole, whole_gradients = run()
    monkeypatch.setattr(scorer_module, "HEAD_VALUES", 7 * VOCABULARY)
    chunked, chunked_gradients = run()
    torch.testing.assert_close(chunked.logprobs, whole.logprobs, atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked.entropies, whole.entropies, atol=1e-6, rtol=1e-6)
    for one, other in zip(chunked_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_recorded_play_packs_to_a_fraction_of_its_tokens() -> None:
    samples = make_samples(play_batch(0, groups=8, size=8), 0, CreditSettings(), AdvantageSettings())
    fed = sum(len(one.prompt_ids) + len(one.ids) - 1 for one in samples)
    assert sum(len(item.ids) for item in pack(samples, 1000)) < fed / 2


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path, token: int) -> None:
    policy = PolicyModel(write_model(tmp_path / "m"), CPU)
    with pytest.raises(BadInput, match=f"token ids .*{token}.* do not fit the vocabulary of 64"):
        policy.prepare(pack([sample([1], [token])], 10)[0])


def test_a_model_whose_logits_are_transformed_after_the_head_is_refused(tmp_path: Path) -> None:
    """Cohere scales its logits: training it through the bare head would use other logprobs than the engine's."""
    config = CohereConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        logit_scale=0.1,
        initializer_range=0.5,
    )
    CohereForCausalLM(config).save_pretrained(tmp_path / "m")
    with pytest.raises(BadInput, match="logprobs differ by"):
        PolicyModel(tmp_path / "m", CPU)


def test_a_sequence_is_refused_beyond_which_the_angles_of_all_positions_change(tmp_path: Path) -> None:
    """Of "longrope", as Phi-3 has it: a longer sequence in the pack would change the scores of the shorter ones."""
    scaled = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
    scaled |= {"original_max_position_embeddings": 64, "factor": 4.0}
    policy = PolicyModel(write_model(tmp_path / "m", rope_parameters=scaled), CPU)
    policy.prepare(pack([sample([1] * 60, [1, 2])], 100)[0])
    with pytest.raises(BadInput, match="of 65 tokens exceed the model's context of 64"):
        policy.prepare(pack([sample([1] * 60, [1, 2]), sample([2] * 60, [1] * 6)], 200)[0])


def test_folders_that_hold_no_model_say_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no model folder"):
        PolicyModel(tmp_path / "elsewhere", CPU)
    with pytest.raises(BadInput, match=r"no config\.json"):
        PolicyModel(tmp_path, CPU)
    broken = write_model(tmp_path / "m")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="no safetensors file"):
        PolicyModel(broken, CPU)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no-such"):
        PolicyModel(write_model(tmp_path / "m"), TrainerSettings(device="no-such"))


def test_with_bfloat16_parameters_stay_float32_and_scores_stay_close(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m")
    exact, rounded = PolicyModel(path, CPU), PolicyModel(path, TrainerSettings(device="cpu", dtype="bfloat16"))
    (item,) = pack(varied_samples(), 10_000)
    gap = (exact.score(exact.prepare(item)).logprobs - rounded.score(rounded.prepare(item)).logprobs).abs()
    assert 0 < gap.max().item() < 0.5
    assert all(parameter.dtype is torch.float32 for parameter in rounded.parameters().values())
    rounded.save(tmp_path / "w")
    assert '"bfloat16"' in (tmp_path / "w" / "config.json").read_text()
