"""From a user message to the token ids that are sent, and back from response ids to text.

    ChatTemplate   a model folder's own Jinja template, with the functions that Hugging Face templates may call
    Renderer       template + `tokenizer.json` of the folder; remembers prompts, since a group shares them

Neither needs transformers. A conversation here is one user message: every turn of an episode is a fresh one. What a
message spells out is text, `<|im_end|>` too: only the template makes control tokens (`actors.tokens`).
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import msgspec
import numpy as np
from tokenizers import Tokenizer

from lamer.actors.tokens import TextEncoder, TokenRoles, find_roles, without
from lamer.common.errors import BadInput, Missing
from lamer.common.records import TokenIds

log = logging.getLogger("lamer.actor")

REMEMBERED_PROMPTS = 1024

FileT = TypeVar("FileT", bound=msgspec.Struct)


class AddedToken(msgspec.Struct):
    """A special token that a tokenizer file describes rather than names."""

    content: str


class NamedTemplate(msgspec.Struct):
    """One of several chat templates in a `tokenizer_config.json`."""

    name: str
    template: str


SpecialToken = str | AddedToken | None


class TokenizerFile(msgspec.Struct):
    """What `tokenizer_config.json` says, as far as templates need it."""

    chat_template: str | tuple[NamedTemplate, ...] | None = None
    bos_token: SpecialToken = None
    eos_token: SpecialToken = None
    unk_token: SpecialToken = None
    pad_token: SpecialToken = None
    sep_token: SpecialToken = None
    cls_token: SpecialToken = None
    mask_token: SpecialToken = None

    def default_template(self) -> str | None:
        """The template for a plain conversation, None where the file has none."""
        if isinstance(self.chat_template, tuple):
            return next((named.template for named in self.chat_template if named.name == "default"), None)
        return self.chat_template

    def special_tokens(self) -> Mapping[str, str]:
        """The tokens that are set, by the names under which templates know them."""
        tokens = {
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "unk_token": self.unk_token,
            "pad_token": self.pad_token,
            "sep_token": self.sep_token,
            "cls_token": self.cls_token,
            "mask_token": self.mask_token,
        }
        return {
            name: token.content if isinstance(token, AddedToken) else token
            for name, token in tokens.items()
            if token is not None
        }


class TextConfig(msgspec.Struct):
    """The language part of a model that also sees."""

    vocab_size: int | None = None


class ModelConfig(msgspec.Struct):
    """What `config.json` says, as far as we read it."""

    vocab_size: int | None = None
    text_config: TextConfig | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None


class GenerationConfig(msgspec.Struct):
    """What `generation_config.json` says, as far as we read it."""

    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training masks; rendering passes its content through."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The statements between the tag and its end."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A chat template, compiled in a sandbox in which it can neither change nor reach what it is not given."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, enable_thinking: bool = False) -> None:
        """Compile `source`. enable_thinking: what the template is told of that name, which not every one asks.

        Raises:
            BadInput: it is no valid template.
        """
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise BadInput(f"the chat template can't be compiled: {error}") from error
        self._special_tokens = special_tokens
        self._enable_thinking = enable_thinking

    def render(self, user_message: str) -> str:
        """The prompt text, up to where the assistant begins.

        Raises:
            BadInput: the template refuses a single user message, or fails on it.
        """
        try:
            return self._template.render(
                messages=[{"role": "user", "content": user_message}],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                enable_thinking=self._enable_thinking,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise BadInput(f"the chat template can't render a single user message: {error}") from error


class Renderer:
    """Renders prompts and decodes responses for one model folder.

    vocab_size: a server may only be sent ids below it: the model's embedding rows where `config.json` tells them.
    end_ids: the tokens that end a response.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        vocab_size: int,
        end_ids: frozenset[int] = frozenset(),
        roles: TokenRoles | None = None,
    ) -> None:
        """Take over parts that were read; use `load`. roles: of the tokens; of a tokenizer alone where left out."""
        self.vocab_size = vocab_size
        self.end_ids = end_ids
        roles = roles or find_roles(tokenizer, end_ids=end_ids)
        self.encoder = TextEncoder(tokenizer, roles.control)
        self._tokenizer = tokenizer
        self._framing = roles.framing
        self._template = template
        self._remembered = functools.lru_cache(maxsize=REMEMBERED_PROMPTS)(self._render)

    @classmethod
    def load(cls, model_path: str | Path, use_chat_template: bool, enable_thinking: bool = False) -> Renderer:
        """Read `tokenizer.json`, and the chat template if it is wanted and there is one.

        enable_thinking: what the template is told of that name.

        Raises:
            Missing: no such folder or no tokenizer in it. BadInput: a file in it can't be used.
        """
        folder = Path(model_path)
        if not folder.is_dir():
            raise Missing(f"there is no model folder {folder} on this machine: `lamer actor --model` names another")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise Missing(f"{path} is not there: a model folder needs its tokenizer in the `tokenizers` format")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BadInput(f"{path} can't be read as a tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        described = _read_json(folder / "tokenizer_config.json", TokenizerFile) or TokenizerFile()
        source = _template_source(folder, described)
        template = _compile(folder, source, described, enable_thinking) if use_chat_template else None
        end_ids = _end_ids(folder, tokenizer)
        roles = find_roles(
            tokenizer,
            named=frozenset(described.special_tokens().values()),
            end_ids=end_ids,
            pad_ids=_pad_ids(folder),
            template=(source or "") + (template.render("x") if template is not None else ""),
        )
        return cls(tokenizer, template, _vocab_size(folder, tokenizer), end_ids, roles)

    def render(self, user_message: str) -> TokenIds:
        """Prompt ids, int32 [P], of a conversation of one user message; read-only, since it is handed out again.

        With a template, which writes its special tokens itself, none are added. Without one the prompt is the message
        and a line end, encoded as the tokenizer encodes any text.
        """
        return self._remembered(user_message)

    def decode(self, ids: TokenIds | Sequence[int]) -> str:
        """The text of ids without end, pad and template tokens; tags are text, special or not."""
        return str(self._tokenizer.decode(without(ids, self._framing), skip_special_tokens=False))

    def decode_all(self, ids: TokenIds) -> str:
        """The text of ids, special tokens among them, in which servers look for stop texts."""
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def _render(self, user_message: str) -> TokenIds:
        is_plain = self._template is None
        ids = np.array(self.encoder.prompt(user_message, self._write, self._controls, is_plain=is_plain), np.int32)
        ids.setflags(write=False)
        return ids

    def _write(self, user_message: str) -> str:
        """The prompt as text."""
        return user_message + "\n" if self._template is None else self._template.render(user_message)

    @functools.cached_property
    def _controls(self) -> int:
        """How many control tokens a prompt has beside its message."""
        return self.encoder.controls(self._write, is_plain=self._template is None)


def _template_source(folder: Path, described: TokenizerFile) -> str | None:
    """`chat_template.jinja` goes before what `tokenizer_config.json` holds; None where neither has one."""
    file = folder / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else described.default_template()


def _compile(folder: Path, source: str | None, described: TokenizerFile, enable_thinking: bool) -> ChatTemplate | None:
    if source is None:
        log.info("%s has no chat template: a prompt is the plain text and a line end", folder)
        return None
    try:
        return ChatTemplate(source, described.special_tokens(), enable_thinking=enable_thinking)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from error


def _vocab_size(folder: Path, tokenizer: Tokenizer) -> int:
    config = _read_json(folder / "config.json", ModelConfig) or ModelConfig()
    size = config.vocab_size or (config.text_config.vocab_size if config.text_config else None)
    return size or max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _end_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The end tokens that the folder names anywhere: SGLang stops at any of them."""
    described = _read_json(folder / "tokenizer_config.json", TokenizerFile) or TokenizerFile()
    named = described.special_tokens().get("eos_token")
    found = {tokenizer.token_to_id(named)} if named is not None else set()
    config = _read_json(folder / "config.json", ModelConfig)
    generation = _read_json(folder / "generation_config.json", GenerationConfig)
    for source in (config, generation):
        ids = source.eos_token_id if source is not None else None
        found.update(ids if isinstance(ids, tuple) else (ids,))
    return frozenset(token for token in found if token is not None)


def _pad_ids(folder: Path) -> frozenset[int]:
    """The pad tokens that the folder names by id."""
    config = _read_json(folder / "config.json", ModelConfig) or ModelConfig()
    generation = _read_json(folder / "generation_config.json", GenerationConfig) or GenerationConfig()
    return frozenset(token for token in (config.pad_token_id, generation.pad_token_id) if token is not None)


def _read_json(path: Path, kind: type[FileT]) -> FileT | None:
    """What a JSON file of the model folder says, None where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {error}") from error


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes HTML, which no prompt wants."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
