"""Pages as text: what stands on a page, field by field, as the original's text mode gives it.

A page is its visible texts in order, each in quotes, with [SEP] between two of them; the instruction, which every page
of the original repeats, stands once in the prompt instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamer.envs.webshop.actions import DESCRIPTION, FEATURES
from lamer.envs.webshop.catalogue import Product
from lamer.envs.webshop.session import Page, Visit

SEPARATOR = " [SEP] "


def fields(visit: Visit) -> tuple[str, ...]:
    """The texts of the open page."""
    match visit.page:
        case Page.SEARCH:
            return ("Search",)
        case Page.RESULTS:
            return _results(visit)
        case Page.ITEM if visit.product is not None:
            return _item(visit.product)
        case Page.DETAIL if visit.product is not None:
            return ("Back to Search", "< Prev", *_detail(visit.product, visit.detail))
        case _:
            return ("Thank you for shopping with us!",)


def join_fields(texts: Sequence[str], most: int | None = None) -> str:
    """Fields as one line; of more than `most` the first ones, and how many follow."""
    shown = texts if most is None else texts[:most]
    line = SEPARATOR.join(shown)
    return line if len(shown) == len(texts) else f"{line} ... ({len(texts) - len(shown)} more)"


def page_text(visit: Visit) -> str:
    """The open page as the policy sees it."""
    return join_fields([f"'{text}'" for text in fields(visit)])


def cut_fields(text: str, most: int) -> str:
    """A page's text with only its first fields."""
    return join_fields(text.split(SEPARATOR), most)


def _results(visit: Visit) -> tuple[str, ...]:
    previous = ("< Prev",) if visit.number > 1 else ()
    following = ("Next >",) if visit.has_next else ()
    products = (text for each in visit.listed for text in (each.asin, each.title.strip(), each.price_tag))
    count = f"Page {visit.number} (Total results: {len(visit.hits)})"
    return ("Back to Search", count, *previous, *following, *products)


def _item(product: Product) -> tuple[str, ...]:
    options = (text.strip() for option in product.options for text in (option.name, *option.values))
    facts = (product.title.strip(), f"Price: {product.price_tag}", "Rating: N.A.")
    return ("Back to Search", "< Prev", *options, *facts, "Description", "Features", "Reviews", "Buy Now")


def _detail(product: Product, detail: str) -> tuple[str, ...]:
    if detail == DESCRIPTION:
        return (product.description.strip() or "No Description",)
    if detail == FEATURES:
        return tuple(bullet.strip() for bullet in product.bullets if bullet.strip()) or ("No Features",)
    return ("No reviews found",)
