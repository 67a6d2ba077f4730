"""Between tokens and text: encoding prompts, detokenising responses, finding stop strings.

Uses the model folder's `tokenizer.json`; without one the engine serves token ids only.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lamer.common.errors import BadInput
from lamer.deploy.inference.embedded.sequence import Finish, IdArray, SamplingParams
from lamer.deploy.inference.embedded.table import BoolArray

_MORE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class StopWatch:
    """The stop strings of some request. may_complete [vocabulary]: tokens that can hold the last letter of one.

    tail: how many last tokens cover any of them, one byte a token at the least.
    """

    strings: tuple[str, ...]
    may_complete: BoolArray
    tail: int


def read_stop_ids(folder: Path) -> tuple[int, ...]:
    """End-of-text ids named by the folder's generation_config.json and config.json."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            value = json.loads(path.read_text()).get("eos_token_id")
            found.update(value if isinstance(value, list) else [] if value is None else [value])
    return tuple(sorted(found))


class TextCodec:
    """The folder's tokenizer. `vocabulary` is the model's, which may be larger than the tokenizer's."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        path = folder / "tokenizer.json"
        self.vocabulary = vocabulary
        self.end_ids = read_stop_ids(folder)
        self._tokenizer: Tokenizer | None = Tokenizer.from_file(str(path)) if path.is_file() else None
        self.watch = functools.lru_cache(maxsize=256)(self._watch)

    @property
    def has_tokenizer(self) -> bool:
        """Whether text can be given and returned."""
        return self._tokenizer is not None

    def encode(self, text: str) -> IdArray:
        """Token ids of a prompt, int32 [P], with the special tokens that the tokenizer adds by itself."""
        if self._tokenizer is None:
            raise BadInput("the model folder has no tokenizer.json: send input_ids instead of text")
        return np.asarray(self._tokenizer.encode(text).ids, np.int32)

    def decode(self, ids: IdArray, skip_special_tokens: bool) -> str:
        """The text of `ids` int32 [R]; "" without a tokenizer."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=skip_special_tokens)

    @functools.cached_property
    def _single_texts(self) -> list[str]:
        assert self._tokenizer is not None
        batches = [[token] for token in range(self.vocabulary)]
        return self._tokenizer.decode_batch(batches, skip_special_tokens=False)

    def _watch(self, strings: tuple[str, ...]) -> StopWatch:
        if self._tokenizer is None:
            raise BadInput("the model folder has no tokenizer.json: stop strings can't be matched, use stop_token_ids")
        last = {text[-1] for text in strings}
        may_complete = np.ones(self.vocabulary, np.bool_)
        if not any(letter.isspace() for letter in last):
            marks = last | {"\ufffd"}
            may_complete[:] = [not text or not marks.isdisjoint(text) for text in self._single_texts]
        return StopWatch(strings, may_complete, max(len(text.encode()) for text in strings) + _MORE_TOKENS)

    def find_stop(self, watch: StopWatch, ids: IdArray) -> str | None:
        """The first of the watched strings that the last tokens of `ids` contain."""
        tail = self.decode(ids[-watch.tail :], skip_special_tokens=False)
        return next((text for text in watch.strings if text in tail), None)

    def response_text(self, ids: IdArray, params: SamplingParams, finish: Finish | None) -> str:
        """The text of a response, cut before what stopped it (a matched string or end token)."""
        matched = None if finish is None or params.keep_stop else finish.matched
        if isinstance(matched, int):
            ids = ids[:-1]
        text = self.decode(ids, params.skip_special_tokens)
        if isinstance(matched, str):
            place = text.find(matched)
            text = text[:place] if place >= 0 else text
        return text
