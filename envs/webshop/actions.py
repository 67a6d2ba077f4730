"""What a shopper can do, in text: `search[words]` and `click[what]`, where what is written on the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_ACTION = re.compile(r"\s*(search|click)\s*\[(.*)\]\s*", re.DOTALL)

BACK = "back to search"
PREVIOUS = "< prev"
NEXT = "next >"
DESCRIPTION = "description"
FEATURES = "features"
REVIEWS = "reviews"
BUY = "buy now"
SEARCH_BUTTON = "search"
DETAILS = (DESCRIPTION, FEATURES, REVIEWS)


@dataclass(frozen=True, slots=True)
class Action:
    """One action; `argument` is in lower case, with single spaces."""

    kind: Literal["search", "click"]
    argument: str

    def __str__(self) -> str:
        return f"{self.kind}[{self.argument}]"


def click(target: str) -> Action:
    """The click on what is written so on the page, in any case."""
    return Action("click", squeeze(target))


def search(words: str) -> Action:
    """The search for some words."""
    return Action("search", squeeze(words))


def parse_action(text: str) -> Action | None:
    """The action that a text is; None where it is none, two, or one with nothing in its brackets.

    Pairs of brackets within the argument belong to it: `click[[x] large]` clicks "[x] large".
    """
    match = _ACTION.fullmatch(text.lower())
    argument = squeeze(match[2]) if match else ""
    if match is None or not argument or not _is_balanced(argument):
        return None
    return search(argument) if match[1] == "search" else click(argument)


def _is_balanced(text: str) -> bool:
    """Whether every bracket that is closed was opened before, and the other way round."""
    depth = 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            return False
    return depth == 0


def squeeze(text: str) -> str:
    """Lower case, every run of white space one space."""
    return " ".join(text.lower().split())
