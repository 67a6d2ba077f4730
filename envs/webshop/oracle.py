"""Scripted shoppers, and how many goals they reach within k attempts.

    perfect shopper   knows the product asked for, finds it by its title, chooses the options asked for, buys it
    random            any action that the page offers; searches for two words of the request

They see and do what a policy can; the perfect one also knows the goal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz

from lamer.envs.base import Reference
from lamer.envs.seeding import task_rng
from lamer.envs.webshop.actions import BACK, BUY, NEXT, PREVIOUS, Action, click, search
from lamer.envs.webshop.env import WebshopEnv
from lamer.envs.webshop.goals import Goal
from lamer.envs.webshop.session import Page, Visit

Shopper = Callable[[WebshopEnv, random.Random], str]


def perfect_shopper(env: WebshopEnv, _rng: random.Random) -> str:
    """The next response of a shopper that knows what is wanted."""
    return f"<action>{next_action(env.goal, env.visit)}</action>"


def random_shopper(env: WebshopEnv, rng: random.Random) -> str:
    """The next response of a shopper that wanders about."""
    return env.random_response(rng)


def next_action(goal: Goal, visit: Visit) -> Action:
    """What brings a shopper closest to buying the very product of the goal."""
    match visit.page:
        case Page.SEARCH:
            return search(goal.product.title)
        case Page.RESULTS if goal.product in visit.listed:
            return click(goal.product.asin)
        case Page.RESULTS:
            return click(NEXT if visit.has_next else BACK)
        case Page.ITEM if visit.product == goal.product:
            missing = [value for name, value in wanted_options(goal) if (name, value) not in visit.chosen]
            return click(missing[0] if missing else BUY)
        case _:
            return click(PREVIOUS)


def wanted_options(goal: Goal) -> list[tuple[str, str]]:
    """The options to choose: those of the goal, where a person named a value alone the offered one that is closest."""
    offered = [(option.name, value) for option in goal.product.options for value in option.values]
    found: list[tuple[str, str]] = []
    for name, value in goal.options:
        if name:
            found.append((name, value))
        elif offered:
            found.append(max(offered, key=lambda choice: (choice[1] == value, fuzz.ratio(choice[1], value))))
    return found


def shop_once(env: WebshopEnv, shopper: Shopper, rng: random.Random) -> float | None:
    """One attempt, played to its end: the score of the purchase, None when nothing was bought."""
    env.reset()
    for _ in range(env.max_turns):
        result = env.step(shopper(env, rng))
        if result.is_done:
            return result.score
    return None


def shopping_references(envs: Sequence[WebshopEnv], episodes: int) -> tuple[Reference, ...]:
    """pass@1..episodes of every scripted shopper over the goals of `envs`."""
    shoppers: dict[str, Shopper] = {"perfect shopper": perfect_shopper, "random": random_shopper}
    return tuple(_reference(name, shopper, envs, episodes) for name, shopper in shoppers.items())


def _reference(name: str, shopper: Shopper, envs: Sequence[WebshopEnv], episodes: int) -> Reference:
    rng = task_rng("webshop", name)
    solved_at = [_first_success(env, shopper, rng, episodes) for env in envs]
    counts = [sum(at is not None and at <= k for at in solved_at) for k in range(episodes)]
    return Reference(name, tuple(count / len(envs) for count in counts))


def _first_success(env: WebshopEnv, shopper: Shopper, rng: random.Random, episodes: int) -> int | None:
    return next((episode for episode in range(episodes) if shop_once(env, shopper, rng) == 1), None)
