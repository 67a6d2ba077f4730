"""A visit to the shop: which page is open, what is chosen, what can be done, and what an action leads to.

    search  --search[...]-->  results  --click[asin]-->  item  --click[buy now]-->  done
       ^                        |  ^                     |  ^
       +------ back to search --+  +------- < prev ------+  +-- < prev --  description, features, reviews

`Visit` is a frozen value and `follow` a pure function: an action that can't be done here leads nowhere (None). Going
back to the results forgets the options chosen on an item's page, as in the original.

With `original`, search works from every page and the search page has a button that does nothing. What the original does
only by accident is not kept: an option whose value holds brackets can be clicked in both.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from lamer.envs.webshop.actions import BACK, BUY, DETAILS, NEXT, PREVIOUS, SEARCH_BUTTON, Action, click, squeeze
from lamer.envs.webshop.catalogue import Product
from lamer.envs.webshop.goals import Choice
from lamer.envs.webshop.shop import Shop

PAGE_SIZE = 10


class Page(enum.StrEnum):
    """What is open. DETAIL: an item's description, features or reviews. DONE: something was bought."""

    SEARCH = "search"
    RESULTS = "results"
    ITEM = "item"
    DETAIL = "detail"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a shopper is. hits: all of the last search. number: of the page of results, from 1.

    product: the open or bought one. chosen: its options, in the order in which they were first chosen. detail: which.
    """

    page: Page = Page.SEARCH
    query: str = ""
    hits: tuple[Product, ...] = ()
    number: int = 1
    product: Product | None = None
    chosen: tuple[Choice, ...] = ()
    detail: str = ""

    @property
    def listed(self) -> tuple[Product, ...]:
        """The products on this page of results."""
        return self.hits[(self.number - 1) * PAGE_SIZE : self.number * PAGE_SIZE]

    @property
    def has_next(self) -> bool:
        """Whether there is another page of results."""
        return self.number * PAGE_SIZE < len(self.hits)


def clicks(visit: Visit, *, original: bool = False) -> tuple[str, ...]:
    """What can be clicked here, in the page's order: buttons, then products or options; every text once."""
    match visit.page:
        case Page.SEARCH:
            return (SEARCH_BUTTON,) if original else ()
        case Page.RESULTS:
            buttons = (BACK, *((PREVIOUS,) if visit.number > 1 else ()), *((NEXT,) if visit.has_next else ()))
            return (*buttons, *(product.asin.lower() for product in visit.listed))
        case Page.ITEM:
            values = (squeeze(value) for option in _open(visit).options for value in option.values)
            return tuple(dict.fromkeys((BACK, PREVIOUS, *DETAILS, BUY, *values)))
        case Page.DETAIL:
            return (BACK, PREVIOUS)
        case Page.DONE:
            return ()


def can_search(visit: Visit, *, original: bool = False) -> bool:
    """Whether there is a search box here."""
    return visit.page is Page.SEARCH or (original and visit.page is not Page.DONE)


def follow(visit: Visit, action: Action, shop: Shop, *, original: bool = False) -> Visit | None:
    """Where an action leads; None where it can't be done."""
    if action.kind == "search":
        if not can_search(visit, original=original):
            return None
        return Visit(Page.RESULTS, query=action.argument, hits=shop.search(action.argument))
    if action.argument not in clicks(visit, original=original):
        return None
    return _click(visit, action.argument)


def _click(visit: Visit, target: str) -> Visit:
    if target == BACK:
        return Visit()
    match visit.page:
        case Page.RESULTS:
            return _from_results(visit, target)
        case Page.ITEM:
            return _from_item(visit, target)
        case Page.DETAIL:
            return replace(visit, page=Page.ITEM, detail="")
        case _:
            return visit


def _from_results(visit: Visit, target: str) -> Visit:
    if target in (NEXT, PREVIOUS):
        return replace(visit, number=visit.number + (1 if target == NEXT else -1))
    product = next(product for product in visit.listed if product.asin.lower() == target)
    return replace(visit, page=Page.ITEM, product=product)


def _from_item(visit: Visit, target: str) -> Visit:
    if target == PREVIOUS:
        return replace(visit, page=Page.RESULTS, product=None, chosen=())
    if target == BUY:
        return replace(visit, page=Page.DONE)
    if target in DETAILS:
        return replace(visit, page=Page.DETAIL, detail=target)
    return replace(visit, chosen=_choose(visit, target))


def _choose(visit: Visit, target: str) -> tuple[Choice, ...]:
    """The options after a click on a value: of several that offer it, the first that is not set to it takes it."""
    chosen = dict(visit.chosen)
    offers = [
        (option.name, value)
        for option in _open(visit).options
        for value in dict.fromkeys(option.values)
        if squeeze(value) == target
    ]
    name, value = next(((name, value) for name, value in offers if chosen.get(name) != value), offers[0])
    return tuple({**chosen, name: value}.items())


def _open(visit: Visit) -> Product:
    if visit.product is None:
        raise ValueError(f"no product is open on the page {visit.page}")
    return visit.product


def available(visit: Visit, *, original: bool = False) -> tuple[Action, ...]:
    """Every click that can be made here; searches are not counted (`can_search`)."""
    return tuple(click(target) for target in clicks(visit, original=original))
