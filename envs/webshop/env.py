"""The WebShop environment: actions on pages, a purchase judged at the end, scripted random play.

An attempt pays 10 for a purchase with the score 1 and nothing else; with the reward `score`, 10 times the score of any
purchase. The score is kept with its turn in either case (`StepResult.score`); the page after it shows it only where
that is configured, since the paper's policies don't see it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lamer.envs.base import Observation, StepResult
from lamer.envs.prompts import PromptedEnv
from lamer.envs.webshop.actions import Action
from lamer.envs.webshop.goals import Goal
from lamer.envs.webshop.nouns import Nouns
from lamer.envs.webshop.pages import SEPARATOR, page_text
from lamer.envs.webshop.prompts import WINDOWS, Scene, WebshopStyle
from lamer.envs.webshop.reward import judge
from lamer.envs.webshop.session import Page, Visit, follow
from lamer.envs.webshop.shop import Shop

RewardScheme = Literal["paper", "score"]

SUCCESS_REWARD = 10.0


@dataclass(frozen=True, slots=True)
class ShoppingRules:
    """How a goal is played. shows_score: the page after a purchase says what it scored. original: see the factory."""

    max_turns: int
    nouns: Nouns
    reward: RewardScheme = "paper"
    shows_score: bool = False
    original: bool = False


class WebshopEnv(PromptedEnv):
    """One goal. An action that can't be done on the open page counts as none, and changes nothing.

    The anchor state is the page's text with the options chosen, which the page itself doesn't show.
    """

    windows = WINDOWS

    def __init__(self, shop: Shop, goal: Goal, style: WebshopStyle, rules: ShoppingRules) -> None:
        super().__init__(style)
        self.max_turns = rules.max_turns
        self.goal = goal
        self.visit = Visit()
        self._shop = shop
        self._page_style = style
        self._rules = rules
        self._look()

    def reset(self) -> Observation:
        """The search page, for the same goal."""
        self.visit = Visit()
        return self._look()

    def step(self, response: str) -> StepResult:
        """Do the action that the response names."""
        action = self._page_style.parse(response)
        after = self._follow(action)
        if after is not None:
            self.visit = after
        score = self._judge()
        is_solved = score == 1
        return StepResult(
            action=None if after is None else str(action),
            observation=self._look(score),
            reward=SUCCESS_REWARD * (score or 0.0) if self._rules.reward == "score" or is_solved else 0.0,
            is_done=score is not None,
            is_solved=is_solved,
            score=score,
        )

    def random_response(self, rng: random.Random) -> str:
        """Any action that the prompt lists with equal chance."""
        return self._page_style.random_answer(rng)

    def random_reflection(self, rng: random.Random) -> str:
        """A remark that says nothing, whatever happened."""
        return self._page_style.random_remark(rng)

    def _follow(self, action: Action | None) -> Visit | None:
        return None if action is None else follow(self.visit, action, self._shop, original=self._rules.original)

    def _judge(self) -> float | None:
        """The score of the purchase, None where nothing is bought."""
        if self.visit.page is not Page.DONE or self.visit.product is None:
            return None
        rules = self._rules
        return judge(self.visit.product, self.visit.chosen, self.goal, rules.nouns, original=rules.original).value

    def _look(self, score: float | None = None) -> Observation:
        """The open page, in the style's layout."""
        self._page_style.look(Scene(self.goal.text, self.visit, self._rules.original))
        text, anchor = self._page_style.page(), page_text(self.visit)
        if score is not None and self._rules.shows_score:
            text += f"{SEPARATOR}'Your score (from 0 to 1): {score:.2f}'"
        if self.visit.chosen and not self._rules.original:
            anchor += "".join(f" [{name}: {value}]" for name, value in sorted(self.visit.chosen))
        return Observation(text, anchor)
