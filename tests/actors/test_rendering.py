"""Prompts as ids, and ids as text: against transformers' own rendering, and on folders that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.actors.rendering import ChatTemplate, Renderer
from lamer.common.errors import BadInput, Missing
from tests.actors.parts import TEMPLATE, byte_tokenizer, encode, write_model

# What published templates use: loop controls, tojson, generation, namespaces, slices, raise_exception.
ELABORATE = """\
{%- if not messages %}{{ raise_exception('no messages') }}{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
  {%- if message.role == 'system' %}{% continue %}{% endif %}
  {%- set ns.last = loop.index0 %}
{{ '<|' + message.role + '|>' }}{{ message.content }}
  {%- if tools %}{{ tools | tojson }}{% endif %}
{%- endfor %}
{{- messages[::-1][0] | tojson(indent=2) }}{{ strftime_now('%Y')[:0] }}
{% generation %}{{ eos_token }}{% endgeneration %}
{%- if add_generation_prompt %}<|assistant|>{{ 'off' if enable_thinking is false else 'on' }}{% endif %}
"""
MESSAGES = ("Open a door.", '  <b>tags & "quotes"</b>\n\n1 left ', "Türe öffnen ✓", "| end | and <action>1</action>")


@pytest.mark.parametrize("template", [TEMPLATE, ELABORATE], ids=["plain", "elaborate"])
@pytest.mark.parametrize("message", MESSAGES)
def test_prompts_equal_those_of_transformers(tmp_path: Path, template: str, message: str) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), bos_token="<s>", eos_token="<|end|>")
    theirs.chat_template = template
    theirs.save_pretrained(tmp_path)
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": message}],
        add_generation_prompt=True,
        enable_thinking=False,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    assert Renderer.load(tmp_path, use_chat_template=True).render(message).tolist() == list(expected)


def test_a_template_file_goes_before_the_one_in_the_tokenizers_file(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("file: {{ messages[0].content }}")
    assert Renderer.load(tmp_path, True).render("hi").tolist() == encode("file: hi").tolist()


def test_the_default_of_several_templates_is_used(tmp_path: Path) -> None:
    write_model(tmp_path, template=None)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}'
    )
    assert Renderer.load(tmp_path, True).render("hi").tolist() == encode("d").tolist()


def test_without_a_template_the_prompt_is_the_text_and_a_line_end(tmp_path: Path) -> None:
    write_model(tmp_path, template=None)
    assert Renderer.load(tmp_path, True).render("hi").tolist() == encode("hi\n").tolist()


def test_a_template_that_is_not_wanted_is_not_used(tmp_path: Path) -> None:
    write_model(tmp_path, template="{{ broken")
    assert Renderer.load(tmp_path, False).render("hi").tolist() == encode("hi\n").tolist()


def test_tags_survive_decoding_and_special_tokens_do_not(tmp_path: Path) -> None:
    renderer = Renderer.load(write_model(tmp_path), True)
    assert renderer.decode(encode("<s>go <action>2</action><|end|>")) == "go <action>2</action>"


def test_a_prompt_is_rendered_once_and_can_not_be_changed(tmp_path: Path) -> None:
    renderer = Renderer.load(write_model(tmp_path), True)
    ids = renderer.render("same")
    assert renderer.render("same") is ids
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_the_vocabulary_is_the_models_where_the_folder_tells_it(tmp_path: Path) -> None:
    assert Renderer.load(write_model(tmp_path / "a", vocab_size=512), True).vocab_size == 512
    assert Renderer.load(write_model(tmp_path / "b"), True).vocab_size == 256 + 8


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nowhere"):
        Renderer.load(tmp_path / "nowhere", True)
    with pytest.raises(Missing, match=r"tokenizer\.json"):
        Renderer.load(tmp_path, True)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("config.json", "{"),
        ("chat_template.jinja", "{% if %}"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(tmp_path: Path, file: str, text: str) -> None:
    write_model(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(BadInput, match=str(tmp_path)):
        Renderer.load(tmp_path, True)


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('roles must alternate') }}", "{{ messages.append(1) }}", "{{ ''.__class__.mro() }}"]
)
def test_a_template_that_refuses_or_reaches_out_is_bad_input(source: str) -> None:
    with pytest.raises(BadInput, match="can't render"):
        ChatTemplate(source, {}).render("hi")
