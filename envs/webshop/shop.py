"""A shop: its products, the search over them and its goals, loaded once in a process and shared by all its sessions.

Nothing in it changes once it is loaded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from lamer.envs.webshop.catalogue import CatalogueSize, Product, load_products
from lamer.envs.webshop.goals import GoalKind, Split, make_goals, split_goals
from lamer.envs.webshop.search import SearchIndex, product_text

MOST_HITS = 50


@dataclass(frozen=True, slots=True)
class Shop:
    """Products, in the order of the index."""

    products: tuple[Product, ...]
    index: SearchIndex

    def search(self, query: str) -> tuple[Product, ...]:
        """The best 50 products for a query, the best first."""
        return tuple(self.products[position] for position in self.index.search(query, MOST_HITS))


@functools.lru_cache(maxsize=4)
def load_shop(folder: Path, size: CatalogueSize) -> Shop:
    """The shop of a dataset's folder; 0.6 s for the small catalogue, nothing when it is loaded already.

    Raises:
        Missing: a file is not there. BadInput: one can't be read.
    """
    products = load_products(folder, size)
    return Shop(products, SearchIndex((product.asin, product_text(product)) for product in products))


@functools.lru_cache(maxsize=8)
def load_split(folder: Path, size: CatalogueSize, kind: GoalKind, evaluation: int, *, original: bool) -> Split:
    """The goals of a dataset's folder; errors as of `load_shop`."""
    products = load_shop(folder, size).products
    return split_goals(make_goals(products, kind, original=original), evaluation, original=original)
