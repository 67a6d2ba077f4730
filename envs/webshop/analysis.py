"""The terms of a text, as Lucene's English analyser finds them.

1. Words by the rules of Unicode text segmentation, as Lucene's tokenizer reads them: 3.5, 1,000 and u.s.a stay whole,
   hyphens split, underscores join but are no word, a pictograph or an ideograph is a word of its own.
2. No possessive 's, lower case, no stop words.
3. Porter's stems, with the rules that he added later. Words of one and two letters stay as they are.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable

import Stemmer

_ENGLISH_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to
was will with
"""
STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())

# Characters by how they break words, as members of a class of a regular expression.
_LETTER_OR_NUMBER, _NUMBER = r"\w", r"\d"
_QUOTES_AND_STOPS = "'.‘’․﹒＇．"  # between letters, and between numbers
_BETWEEN_LETTERS = f"{_QUOTES_AND_STOPS}:··՟״‧︓﹕："
_BETWEEN_NUMBERS = f"{_QUOTES_AND_STOPS},;;։،؍٬߸⁄︐︔﹐﹔，；"
_JOINERS = "_‿⁀⁔︳︴﹍-﹏＿"
_IDEOGRAPHS = "\u2e80-\u2fd5々〇〡-〩〸-〻\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u32d0-\u32fe\u3300-\u3357\uff66-\uff9d"
_WITHOUT_SPACES = "\u0e01-\u0e4f\u0e80-\u0ecf\u1000-\u103f\u1780-\u17d7"  # Thai, Lao, Burmese, Khmer: runs stay whole
_PICTOGRAPHS = (  # Unicode's Extended_Pictographic of emoji 11.0
    "©®‼⁉™ℹ↔-↙↩↪⌚⌛⌨⎈⏏⏩-⏳⏸-⏺Ⓜ▪▫▶◀◻-◾☀-★☇-☒☔-⚅⚐-✅✈-✒✔✖✝✡✨✳✴❄❇❌❎❓-❕❗❣-❧➕-➗➡➰➿⤴⤵⬅-⬇⬛⬜⭐⭕〰〽㊗㊙"
    "\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e"
    "\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f\U0001f21a\U0001f22f\U0001f232-\U0001f23a"
    "\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff"
    "\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f"
    "\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001fffd"
)
_SKIN_TONES = "\U0001f3fb-\U0001f3ff"

_PORTER = Stemmer.Stemmer("porter")
_LONGEST_WORD_AS_IT_IS = 2
_MEASURED = r".*(?:[aeiou]|(?<=[^aeiou])y)[^aeiou].*?"
"""A stem that has a vowel and a consonant after it."""
_BLY_OR_LOGY = re.compile(rf"({_MEASURED})(bl|log)(?:y|ies|ys|yed|ying)")
"""Porter added -bly and -logy to his rules: Lucene has them, Snowball has not."""
_DOUBLED = re.compile(r"(.*[aeiouy].*([^aeioubdfgmnprtlsyz]))\2(?:ed|ing)s?")
"""Porter halves every double consonant but l, s and z before -ed and -ing; Snowball's rules name nine of them."""


def analyse(text: str) -> list[str]:
    """The terms of a text, in order."""
    words = (word[:-2] if word.endswith(("'s", "’s", "＇s")) else word for word in _word().findall(text.lower()))
    return list(map(_stem, (word for word in words if word and word not in STOP_WORDS)))


@functools.lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    if len(word) <= _LONGEST_WORD_AS_IT_IS:
        return word
    if match := _BLY_OR_LOGY.fullmatch(word):
        word = match[1] + ("ble" if match[2] == "bl" else "log")
    elif match := _DOUBLED.fullmatch(word):
        word = match[1]
    stem: str = _PORTER.stemWord(word)
    return stem


@functools.cache
def _word() -> re.Pattern[str]:
    """What a word is. Marks and invisible characters belong to the character before them."""
    marks, others = _of_category({"Mn", "Mc", "Me", "Cf"}, but="\u200b"), _of_category({"No"}, but="")
    mark = f"[{marks}{_SKIN_TONES}\U000e0020-\U000e007f\U000e0100-\U000e01ef]*"
    apart = f"{others}{_JOINERS}{_IDEOGRAPHS}{_HIRAGANA}{_KATAKANA}{_WITHOUT_SPACES}"
    letter = rf"(?![{apart}{_NUMBER}]){_LETTER_OR_NUMBER}"
    of_letters = rf"{letter}{mark}(?:[{_BETWEEN_LETTERS}]{mark}(?={letter}))?"
    of_numbers = rf"{_NUMBER}{mark}(?:[{_BETWEEN_NUMBERS}]{mark}(?={_NUMBER}))?"
    part = rf"(?:(?:[a-z]+(?=[a-z])|{of_letters}|{of_numbers})+|(?:[{_KATAKANA}]{mark})+)"
    joiner = rf"[{_JOINERS}]{mark}"
    kinds = (
        rf"[{_PICTOGRAPHS}]{mark}(?:(?<=\u200d)[{_PICTOGRAPHS}]{mark})*",
        rf"[#*0-9]\ufe0f?\u20e3{mark}",
        rf"[\U0001f1e6-\U0001f1ff]{mark}[\U0001f1e6-\U0001f1ff]{mark}",
        rf"(?:{joiner})*{part}(?:(?:{joiner})+{part})*(?:{joiner})*",
        rf"(?:[{_WITHOUT_SPACES}]{mark})+",
        rf"[{_IDEOGRAPHS}{_HIRAGANA}]{mark}",
    )
    return re.compile("|".join(kinds))


def _of_category(categories: set[str], but: str) -> str:
    """The characters of some Unicode categories in the basic plane, as ranges of a regular expression's class."""
    found = (code for code in range(0x10000) if unicodedata.category(chr(code)) in categories and chr(code) not in but)
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in _ranges(found))


def _ranges(codes: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = ranges[-1][0], code
        else:
            ranges.append((code, code))
    return ranges
