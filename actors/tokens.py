"""Control tokens: which they are, and how text that spells one out is encoded without making one.

    TokenRoles     which tokens a text can't make, and which are no part of a text
    find_roles     the roles of a tokenizer's added tokens
    TextEncoder    ids of a prompt in which the message makes no control token, and of a plain text

Control tokens are those that end or pad, those that the chat template writes, and every other special token. Tags, such
as `<action>` with `</action>`, are none, special or not, unless the template writes them: environments ask for them and
parse them, so prompts hold them as tokens and decoding keeps them, whoever wrote them.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Tokenizer

from lamer.common.errors import BadInput
from lamer.common.records import TokenIds

_TAG = re.compile(r"</?[A-Za-z][\w-]+>")
_MARK = re.compile(r"[<\[{|]\S+[>\]}|]")
"""How a template token looks that is not registered as special; other added tokens are words or white space."""


@dataclass(frozen=True, slots=True)
class TokenRoles:
    """control: spellings of tokens that text can't make, by id. framing: ids that decoding drops."""

    control: Mapping[int, str]
    framing: frozenset[int]


def find_roles(
    tokenizer: Tokenizer,
    named: Collection[str] = (),
    end_ids: Collection[int] = (),
    pad_ids: Collection[int] = (),
    template: str = "",
) -> TokenRoles:
    """The roles of a tokenizer's tokens.

    Args:
        tokenizer: the model's.
        named: spellings of the tokens that its configuration names: begin, end, pad, unknown and so on.
        end_ids: tokens that end a response.
        pad_ids: tokens that pad one.
        template: the chat template's text, and a prompt that it made.
    """
    added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
    spellings = {token.content for token in added.values()}
    control: dict[int, str] = {}
    framing: set[int] = set()
    for token_id, token in added.items():
        spelling = token.content
        is_written = spelling in template and (token.special or _MARK.fullmatch(spelling) is not None)
        is_tag = spelling not in named and _is_tag(spelling, spellings)
        is_frame = spelling in named or token_id in end_ids or token_id in pad_ids
        if is_written or (not is_tag and (is_frame or token.special)):
            control[token_id] = spelling
        if not is_tag and (is_frame or is_written):
            framing.add(token_id)
    return TokenRoles(control, frozenset(framing | (set(end_ids) - added.keys())))


def _is_tag(spelling: str, others: Collection[str]) -> bool:
    """Whether an added token is a tag: a closing one, or one that another added token closes."""
    return _TAG.fullmatch(spelling) is not None and (spelling[1] == "/" or f"</{spelling[1:]}" in others)


class TextEncoder:
    """Encodes text with a tokenizer; what text spells out becomes no control token.

    Text in which nothing is spelt out is encoded by the tokenizer as it is. For any other there is a twin of it in
    which each control token has a spelling that nobody can know; these stand in the prompt where the template wrote the
    token, and the twin encodes the whole prompt at once, so that text is cut as if the tokens did not exist.
    """

    def __init__(self, tokenizer: Tokenizer, control: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._secret = secrets.token_hex(8)
        self._secret_names = {spelling: f"{self._secret}t{token_id}z" for token_id, spelling in control.items()}
        longest_first = sorted(self._secret_names, key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._is_control = np.zeros(max(control, default=-1) + 1, dtype=np.bool_)
        self._is_control[list(control)] = True

    def text(self, text: str) -> list[int]:
        """Ids of a text without any control token."""
        ids = _encode(self._tokenizer, text, add_special_tokens=False)
        return _encode(self._twin, text, add_special_tokens=False) if self._count(ids) else ids

    def controls(self, write: Callable[[str], str], *, is_plain: bool) -> int:
        """How many control tokens a prompt holds around a message: `write` makes it from the message.

        is_plain: the tokenizer adds its own special tokens, for no template does.
        """
        return self._count(_encode(self._tokenizer, write("x"), add_special_tokens=is_plain))

    def prompt(self, message: str, write: Callable[[str], str], controls: int, *, is_plain: bool) -> list[int]:
        """Ids of the prompt that `write` makes from a message; `controls` of them are control tokens.

        Raises:
            BadInput: `write` changes a message that spells control tokens out so that they can't be found again.
        """
        ids = _encode(self._tokenizer, write(message), add_special_tokens=is_plain)
        if self._count(ids) == controls:
            return ids
        spelt = list(dict.fromkeys(self._spelt.findall(message)))
        places = {spelling: f"{self._secret}s{index}z" for index, spelling in enumerate(spelt)}
        prompt = write(self._spelt.sub(lambda match: places[match[0]], message))
        prompt = self._spelt.sub(lambda match: self._secret_names[match[0]], prompt)
        for spelling, place in places.items():
            prompt = prompt.replace(place, spelling)
        if f"{self._secret}s".casefold() in prompt.casefold():
            raise BadInput(f"the chat template changes a message in which the control tokens {spelt} are spelt out")
        return _encode(self._twin, prompt, add_special_tokens=is_plain)

    def _count(self, ids: list[int]) -> int:
        """How many of the ids are control tokens."""
        array = np.asarray(ids, dtype=np.int64)
        return int(self._is_control[array[array < len(self._is_control)]].sum())

    @functools.cached_property
    def _twin(self) -> Tokenizer:
        """The same tokenizer, whose control tokens have their secret names and the same ids."""
        twin = Tokenizer.from_str(_renamed(self._tokenizer.to_str(), self._secret_names))
        for spelling, name in self._secret_names.items():
            if twin.token_to_id(name) != self._tokenizer.token_to_id(spelling):
                raise BadInput(f"the control token {spelling!r} can't be told from text with this tokenizer")
        return twin


def without(ids: TokenIds | Sequence[int], dropped: Collection[int]) -> list[int]:
    """The ids that are not among `dropped`."""
    return [token for token in np.asarray(ids).tolist() if token not in dropped]


def _encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    # The batch form that leaves character offsets out takes half the time of `encode`.
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)


def _renamed(tokenizer: str, names: Mapping[str, str]) -> str:
    """A tokenizer file in which some tokens have other names. No pieces of text merge into one of these."""
    tree = json.loads(tokenizer)
    for token in tree["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False}
    model = tree["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint((*pair, "".join(pair)))]
    return json.dumps(tree)
