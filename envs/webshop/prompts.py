"""The full prompts of the shop, and what both layouts share.

    WebshopStyle   a layout: how pages are written, how memory looks, how a response names an action
    FullStyle      pages as text with every action that can be done listed, for instruction-tuned models
    compact        `envs.webshop.compact`: choices by letter, for small models

A style belongs to one environment and is told by it where the shopper is (`Scene`), since a play prompt lists what can
be done there.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lamer.common.settings import Prompting
from lamer.envs import history
from lamer.envs.base import PlayView
from lamer.envs.memory import MemoryStep, MemoryWindow, MemoryWindows
from lamer.envs.parsing import between_tags
from lamer.envs.prompts import Labels, ParagraphStyle, PromptStyle, join_lines, join_paragraphs, titled
from lamer.envs.webshop.actions import Action, parse_action, search
from lamer.envs.webshop.pages import cut_fields, page_text
from lamer.envs.webshop.session import Visit, available, can_search


@dataclass(frozen=True, slots=True)
class PageWindow(MemoryWindow):
    """A window that also cuts pages, all but the last, to their first `fields` texts. is_open: the last page is left
    out, since it stands elsewhere in the prompt.
    """

    fields: int
    is_open: bool = False


WINDOWS = MemoryWindows(
    playing=PageWindow(steps=5, observations=5, fields=15, is_open=True),
    reflecting=PageWindow(steps=20, observations=20, fields=15),
    past=PageWindow(steps=3, observations=3, fields=6),
)
"""The reference's: the last 5 steps in play, 20 to reflect on, 3 of a past attempt; 15 texts of a page, then 6."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a shopper wants, and where it is. original: by the original's rules of what can be done."""

    instruction: str
    visit: Visit
    original: bool = False

    @property
    def clicks(self) -> tuple[Action, ...]:
        """Every click that can be made."""
        return available(self.visit, original=self.original)

    @property
    def has_search(self) -> bool:
        """Whether a search can be made."""
        return can_search(self.visit, original=self.original)


class WebshopStyle(PromptStyle):
    """A layout of prompts for one task. `scene` is where the shopper is now; the environment says so (`look`)."""

    scene: Scene

    def look(self, scene: Scene) -> None:
        """From now on the shopper is here."""
        self.scene = scene

    @abstractmethod
    def page(self) -> str:
        """The open page as the policy sees it."""

    @abstractmethod
    def parse(self, response: str) -> Action | None:
        """The action that a response names, whether or not it can be done here; None when it names none."""

    @abstractmethod
    def random_answer(self, rng: random.Random) -> str:
        """A response with a random action that can be done here."""

    @abstractmethod
    def random_remark(self, rng: random.Random) -> str:
        """A reflection that teaches nothing."""


_RULES = """\
You are shopping in WebShop, a web shop of real products. You are asked: {instruction}

How the shop works:
- The search page takes any words: search[words]. Results come in pages of ten, each with its code, title and price.
- click[code] opens a product. Its page shows its options, such as size or color, with their values, and its price; \
Description, Features and Reviews say more about it.
- click[value] chooses an option's value. Choose every option that you were asked for before you buy.
- click[buy now] buys what is open, with the options you have chosen, and ends the attempt.

Goal: buy a product of the kind you were asked for, with all the properties and options asked for, within the price. \
You succeed only if everything fits."""

_PLAY = {
    Prompting.REACT: """\
Choose your next action. Think step by step first: what does this page tell you about what you were asked for, and \
which of these actions brings you closest to buying it? Then give exactly ONE of them inside the tags: \
<action>search[words]</action> or <action>click[text]</action>""",
    Prompting.ACT: """\
Choose your next action. Answer with the action alone and write nothing before it: exactly ONE of these inside the \
tags: <action>search[words]</action> or <action>click[text]</action>""",
}

_REFLECT = """\
You did not buy what you were asked for, and you will start over from the search page with the same request. \
Look back on this attempt before you do. Think step by step first: which searches and clicks helped, where were they \
mistaken or wasted, and what did the product you bought lack, if you bought one? Then make a short plan for the next \
attempt that names the searches and clicks to make instead. \
Finish with your lessons and this plan inside the tags: <remark>lessons and plan</remark>"""

_IN_FULL_BELOW = "(the page now, in full below)"


_LABELS = Labels(
    past="Your earlier attempts at this same request:",
    current="Your actions in this attempt so far:",
    before="Your attempts before the last one:",
    failed="Your actions in the last attempt, and the page after each:",
    play=_PLAY,
    reflect=_REFLECT,
)


class FullStyle(ParagraphStyle, WebshopStyle):
    """Rules in sentences, pages as the shop shows them, every action listed."""

    labels = _LABELS

    def page(self) -> str:
        """The page's texts in quotes, with [SEP] between them."""
        return page_text(self.scene.visit)

    def introduction(self) -> str:
        """What there is to do, and the request of the customer."""
        return _RULES.format(instruction=self.scene.instruction)

    def present(self, view: PlayView) -> str:
        """The open page, what is chosen on it, and what can be done there."""
        return join_paragraphs(
            join_lines(titled("The page now:", view.observation), self._chosen()),
            titled("What you can do here:", "\n".join(self._menu())),
        )

    def steps(self, steps: Sequence[MemoryStep], window: MemoryWindow) -> str:
        """Actions with the pages that followed, cut to the window's number of texts."""
        if not isinstance(window, PageWindow) or not steps:
            return history.render_steps(steps, window)
        cut = [replace(step, observation=cut_fields(step.observation, window.fields)) for step in steps[:-1]]
        last = replace(steps[-1], observation=_IN_FULL_BELOW) if window.is_open else steps[-1]
        return history.render_steps([*cut, last], window)

    def parse(self, response: str) -> Action | None:
        """The action between the first pair of action tags."""
        return parse_action(between_tags(response, "action") or "")

    def random_answer(self, rng: random.Random) -> str:
        """Any action listed with equal chance; a search is for two words of the request."""
        actions = [*self.scene.clicks]
        if self.scene.has_search:
            actions.append(search(" ".join(rng.choices(self.scene.instruction.split(), k=2))))
        return f"<action>{rng.choice(actions)}</action>"

    def random_remark(self, rng: random.Random) -> str:
        """Two words of the request."""
        return f"<remark>{' '.join(rng.choices(self.scene.instruction.split(), k=2))}</remark>"

    def _menu(self) -> list[str]:
        searches = ["search[words]"] if self.scene.has_search else []
        return [*searches, *map(str, self.scene.clicks)]

    def _chosen(self) -> str:
        """The options chosen, which the page itself doesn't show."""
        chosen = self.scene.visit.chosen
        return f"Chosen: {', '.join(f'{name}: {value}' for name, value in chosen)}" if chosen else ""
