"""Short prompts for small models: what can be done stands in a list by letter, and a response is a letter.

    Find: eco friendly cotton balls for sensitive skin, below 40
    a search eco friendly cotton balls for sensitive skin
    b search eco friendly cotton
    c search balls for sensitive skin
    Pick a-c: <action>a</action>

So little is left to say that some is chosen for the shopper: a search is one of three made of the words of the request,
titles and texts are cut, and of an option with many values those are listed that the request names, and a few others. A
response may also name an action in full, as in the full layout; it counts where it can be done.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, MemoryWindow
from lamer.envs.parsing import between_tags
from lamer.envs.prompts import CompactStyle, join_lines
from lamer.envs.webshop.actions import (
    BACK,
    BUY,
    DESCRIPTION,
    FEATURES,
    NEXT,
    PREVIOUS,
    Action,
    click,
    parse_action,
    search,
)
from lamer.envs.webshop.catalogue import Option, Product
from lamer.envs.webshop.pages import fields
from lamer.envs.webshop.prompts import Scene, WebshopStyle
from lamer.envs.webshop.session import Page

LETTERS = "abcdefghijklmnopqrstuvwxyz"

_TITLE_WORDS = 4
_DETAIL_WORDS = 20
_STEP_WORDS = 3
_OPTION_VALUES = 3
_VALUE_WORDS = 6
_BEGINNING = re.compile(r"^find me ", re.IGNORECASE)
_PRICE = re.compile(r",? (?:and )?price lower than ([0-9]+)(?:\.[0-9]+)? dollars$")
_CODE = re.compile(r"b0[0-9a-z]{8}|[0-9]{9}[0-9x]")
_OPTIONS = re.compile(r" with [^,:]*:.*$")
_REMARKS = ("search", "options", "features", "price", "title")


@dataclass(frozen=True, slots=True)
class Line:
    """One choice: what is written beside its letter, and the action that it stands for."""

    text: str
    action: Action


class WebshopCompactStyle(CompactStyle, WebshopStyle):
    """The request, the choices of this page, the answer format."""

    reflection_request = "Failed. <remark>note</remark>"
    lines: Sequence[Line] = ()

    def look(self, scene: Scene) -> None:
        """From now on the shopper is here, and these are the choices, at most one for each letter."""
        super().look(scene)
        self.lines = self._choices()

    def page(self) -> str:
        """What the page says, then the choices by letter."""
        lines = [f"{letter} {line.text}" for letter, line in zip(LETTERS, self.lines, strict=False)]
        return join_lines(self._heading(), *lines)

    def play(self, view: PlayView) -> str:
        """The request, earlier attempts, actions so far, choices, answer format."""
        request = f"Pick a-{LETTERS[max(len(self.lines) - 1, 0)]}: <action>a</action>"
        return join_lines(self._wanted(), view.past, view.current, view.observation, request)

    def reflection(self, view: ReflectionView) -> str:
        """The request, earlier attempts, actions of the one that failed, answer format."""
        return join_lines(self._wanted(), view.past, view.current, self.reflection_request)

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """The last actions on one line, cut to a few words; the title of a product instead of its code."""
        shown = steps[max(len(steps) - window.steps, 0) :]
        return f"Did: {'; '.join(_first_words(_what(step), _STEP_WORDS) for step in shown)}" if shown else ""

    def parse(self, response: str) -> Action | None:
        """The action beside the letter between the action tags, or the action written out there."""
        answer = (between_tags(response, "action") or "").strip().lower()
        if len(answer) == 1:
            position = LETTERS.find(answer)
            return self.lines[position].action if 0 <= position < len(self.lines) else None
        return parse_action(answer)

    def random_answer(self, rng: random.Random) -> str:
        """Any letter with equal chance."""
        return f"<action>{rng.choice(LETTERS[: len(self.lines)])}</action>"

    def random_remark(self, rng: random.Random) -> str:
        """One of a few words about shopping."""
        return f"<remark>{rng.choice(_REMARKS)}</remark>"

    def _choices(self) -> list[Line]:
        visit = self.scene.visit
        if visit.page is Page.SEARCH:
            return [Line(f"search {words}", search(words)) for words in suggested_searches(self.scene.instruction)]
        known = {line.action.argument: line for line in self._products_and_options()}
        offered = {action.argument for action in self.scene.clicks}
        buttons = [
            Line(name, click(name)) for name in (BUY, FEATURES, DESCRIPTION, NEXT, PREVIOUS, BACK) if name in offered
        ]
        return [*known.values()][: len(LETTERS) - len(buttons)] + buttons

    def _products_and_options(self) -> list[Line]:
        visit = self.scene.visit
        if visit.page is Page.RESULTS:
            return [Line(_listing(product), click(product.asin)) for product in visit.listed]
        if visit.page is Page.ITEM and visit.product is not None:
            return [line for option in visit.product.options for line in self._values(option)]
        return []

    def _values(self, option: Option) -> list[Line]:
        """Some values of an option, in the page's order: first those that the request names, the longest first."""
        request = self.scene.instruction.lower()
        values = list(dict.fromkeys(option.values))
        ranked = sorted(values, key=lambda value: -len(value) * (f"{option.name}: {value}" in request))
        listed = [value for value in values if value in ranked[:_OPTION_VALUES]]
        return [Line(f"{option.name} {_first_words(value, _VALUE_WORDS)}", click(value)) for value in listed]

    def _wanted(self) -> str:
        """The request without its first words, the price short."""
        return "Find: " + _PRICE.sub(r", below \1", _BEGINNING.sub("", self.scene.instruction))

    def _heading(self) -> str:
        """What an open item or text says."""
        visit = self.scene.visit
        if visit.product is None or visit.page is Page.SEARCH:
            return ""
        if visit.page is Page.DETAIL:
            return _first_words(" ".join(fields(visit)[2:]).lower(), _DETAIL_WORDS)
        chosen = ", ".join(value for _, value in visit.chosen)
        return join_lines(_listing(visit.product), f"chosen {chosen}" if chosen else "")


def suggested_searches(instruction: str) -> tuple[str, ...]:
    """The words of a request before its options and price, and each half of them."""
    asked = _OPTIONS.sub("", _PRICE.sub("", _BEGINNING.sub("", instruction.lower())))
    words = asked.replace(",", "").split()
    half = (len(words) + 1) // 2
    parts = (" ".join(part) for part in (words, words[:half], words[half:]))
    return tuple(dict.fromkeys(part for part in parts if part))


def _listing(product: Product) -> str:
    return f"{_first_words(product.title.lower(), _TITLE_WORDS)} {product.price_tag.split('.')[0]}"


def _what(step: MemoryStep) -> str:
    """An action without its brackets: "click[buy now]" is "buy now"; what opened where it is a product's code."""
    action = parse_action(step.action)
    if action is None:
        return step.action
    return step.observation if _CODE.fullmatch(action.argument) else action.argument


def _first_words(text: str, count: int) -> str:
    """The first words of a text, at most ten characters a word on average."""
    return " ".join(text.split()[:count])[: 10 * count]
