"""The pocket model: its tokenizer, its folder, and supervised fine-tuning."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lamer.actors.rendering import Renderer
from lamer.common.errors import BadInput
from lamer.common.folders import whole_folder
from lamer.common.settings import PocketSettings
from lamer.learner.pocket.model import TAGS, create_pocket, train_tokenizer
from lamer.learner.pocket.supervised import Example, FineTuning, fine_tune, token_losses

TEXTS = ["Open a door: 3 is closed.\n# _ X #\nleft\n>", "<action>12</action>", "<remark>left 4</remark>"] * 4
SIZES = PocketSettings(
    hidden=32, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=48, vocabulary=400, context=64
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "pocket"
    create_pocket(SIZES, train_tokenizer(TEXTS, SIZES.vocabulary), 3, path)
    return path


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_words_digits_and_board_cells_of_its_texts_are_one_token_each() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    tokens = tokenizer.encode("Open a door: 3\n# _ X #\n<action>12</action>").tokens
    words = ["Open", "Ġa", "Ġdoor", ":", "Ġ3", "Ċ", "#", "Ġ_", "ĠX", "Ġ#", "Ċ", "<action>", "1", "2", "</action>"]
    assert tokens == words


@pytest.mark.parametrize(
    "text", ["never seen before", "  two  spaces\t\n\n", "é漢字🙂 <action>", "</remark></action", ""]
)
def test_any_text_encodes_and_decodes_to_itself(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


def test_every_token_has_its_own_id_and_special_ones_vanish_when_decoded() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= 400
    ids = tokenizer.encode("<remark>left</remark><eos><pad>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<remark>left</remark>", "tags stay, <eos> goes"


def test_a_vocabulary_without_room_for_bytes_and_tags_is_refused() -> None:
    with pytest.raises(BadInput, match=r"model\.pocket\.vocabulary must be at least 262, got 261"):
        train_tokenizer(TEXTS, 261)


@pytest.mark.parametrize(
    ("changes", "message"), [({"heads": 3, "kv_heads": 2}, r"heads \(3\)"), ({"head_dim": 9}, "even.*got 9")]
)
def test_sizes_that_describe_no_model_are_refused(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        create_pocket(replace(SIZES, **changes), train_tokenizer((), 262), 0, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_folder_loads_in_transformers_with_tied_fp32_weights(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<eos>")
    assert model.config.vocab_size == len(tokenizer)


def test_transformers_and_actors_render_the_same_prompt_ids(folder: Path) -> None:
    message = "Open a door: 3\nleft"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    conversation = [{"role": "user", "content": message}]
    theirs = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    ours = Renderer.load(folder, use_chat_template=True).render(message)
    assert ours.tolist() == list(theirs)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(f"{message}\n>").ids == ours.tolist()


def test_the_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, SIZES.vocabulary)
    create_pocket(SIZES, tokenizer, 3, tmp_path / "same")
    create_pocket(SIZES, tokenizer, 4, tmp_path / "other")
    assert digest(tmp_path / "same") == digest(folder) != digest(tmp_path / "other")


def test_creating_a_model_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    create_pocket(SIZES, train_tokenizer((), 262), 0, tmp_path / "model")
    assert torch.equal(torch.rand(1), expected)


def test_a_folder_whose_writing_fails_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with whole_folder(tmp_path / "model") as temporary:
            (temporary / "config.json").write_text("{}")
            raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_write_the_same_folder_one_wins_and_nothing_else_stays(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)

    def write(text: str) -> None:
        with whole_folder(tmp_path / "model") as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text(text)
            barrier.wait()

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == (tmp_path / "model" / "b").read_text()


def example(prompt: list[int], response: list[int]) -> Example:
    return Example(np.array(prompt, dtype=np.int32), np.array(response, dtype=np.int32))


def test_the_losses_are_means_over_response_and_prompt_tokens_whatever_the_padding(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    examples = [example([5, 6, 7, 8, 9, 10], [11, 12]), example([20], [21, 22, 23])]
    response, prompt = 0.0, 0.0
    for each in examples:
        whole = torch.from_numpy(np.concatenate([each.prompt_ids, each.response_ids])).long()[None]
        logprobs = model(whole).logits.detach().log_softmax(-1)[0]
        for position in range(1, len(each)):
            part = -float(logprobs[position - 1, int(whole[0, position])])
            if position < len(each.prompt_ids):
                prompt += part
            else:
                response += part
    losses = token_losses(model, examples)
    assert float(losses.response.detach()) == pytest.approx(response / 5, abs=1e-5)
    assert float(losses.prompt.detach()) == pytest.approx(prompt / 5, abs=1e-5)


def test_fine_tuning_learns_the_distribution_of_responses_and_keeps_the_other_files(
    folder: Path, tmp_path: Path
) -> None:
    examples = [example([5, 6], [answer, 1]) for answer in (30, 30, 30, 31)] * 8
    tuned = fine_tune(folder, examples, FineTuning(steps=80, batch=16, learning_rate=1e-2), tmp_path / "tuned")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    shares = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    assert float(shares[30]) == pytest.approx(0.75, abs=0.06)
    assert float(shares[31]) == pytest.approx(0.25, abs=0.06)
    assert tuned.loss < tuned.first_loss
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == {path.name for path in folder.iterdir()}


def test_fine_tuning_refuses_examples_that_do_not_fit_and_none_at_all(folder: Path, tmp_path: Path) -> None:
    plan = FineTuning(steps=1, batch=1, learning_rate=1e-3)
    with pytest.raises(BadInput, match=r"70 tokens, the model's context 64"):
        fine_tune(folder, [example([5] * 68, [1, 1])], plan, tmp_path / "tuned")
    with pytest.raises(BadInput, match="no examples"):
        fine_tune(folder, [], plan, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_tags_are_what_the_environments_ask_for() -> None:
    assert TAGS == ("<action>", "</action>", "<remark>", "</remark>")
