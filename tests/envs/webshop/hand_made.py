"""A hand-made shop in WebShop's file formats: nine products, five of them with goals, and three that are dropped."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

from lamer.envs.webshop.catalogue import Option, Product
from lamer.envs.webshop.goals import Choice, Goal

LAMPS = "Home & Kitchen › Lighting › Lamps"


def item(asin: str, name: str, query: str, category: str, **others: object) -> dict[str, object]:
    """An entry of the products' file."""
    return {"asin": asin, "name": name, "query": query, "product_category": category, "images": ["x"], **others}


def choices(**options: list[str] | None) -> dict[str, object]:
    """An entry's `customization_options`; underscores in names become spaces."""
    return {
        name.replace("_", " "): None if values is None else [{"value": value, "image": None} for value in values]
        for name, values in options.items()
    }


ITEMS = [
    item(
        "B0DESKLAMP",
        "Cedar Desk Lamp",
        " Desk Lamps ",
        LAMPS,
        full_description="A lamp of solid cedar.",
        small_description=["Warm light ", "Dimmable in three steps"],
        pricing="$19.99",
        customization_options=choices(Size=["Small", "Large/Tall"], Color=["Sky Blue", "Coal Black"], Style=None),
    ),
    item("B0FLOORLMP", "Pine Floor Lamp", "floor lamps", LAMPS, pricing="$35.00 to $44.00", customization_options=""),
    item(
        "B0OATBARS1",
        "Oat Bars with Blueberry, 12 Pack",
        "snack bars",
        "Grocery › Snacks › Bars",
        small_description="Gluten free oats",
        pricing="$8.50",
        customization_options=choices(Flavor_Name=["Blueberry Bliss", "Rectangular Date"]),
    ),
    item(
        "B0WOOLSOCK",
        "Merino Wool Socks for Winter",
        "wool socks",
        "Clothing › Women › Socks",
        full_description="Tog 3.5, for the u.s.a. winter",
        pricing="$12.00",
        customization_options=choices(Color=["Red", "Red"], Size=["6-8"]),
    ),
    item("B0BLUERUGS", "Round Blue Rug", "area rugs", "Home & Kitchen › Rugs › Area Rugs", pricing="$1,049.00"),
    item("B0TEACUPS1", "Porcelain Tea Cups", "tea cups", "Home & Kitchen › Dining › Cups", pricing=None),
    item("B0TEAPOTS1", "Porcelain Tea Pot", "tea pots", "Home & Kitchen › Dining › Pots", pricing="$24.00"),
    item("B0PENCILS1", "Graphite Pencils", "pencils", "Office › Pencils", pricing="$3.00"),
    item("B0NOTEBOOK", "Notebook with Squared Paper", "notebooks", "Office › Paper", pricing="$4.00"),
    item("B0NOTEBOOK", "Notebook met a second time", "notebooks", "Office › Paper"),
    item("nan", "No code", "x", "x"),
    item("B0MUCHTOOLONG", "A code of more than ten characters", "x", "x"),
]

ATTRIBUTES = {
    "B0DESKLAMP": {
        "attributes": ["dimmable", "easy install"],
        "instruction": "Find me dimmable, easy install desk lamps",
        "instruction_attributes": ["dimmable", "easy install"],
    },
    "B0FLOORLMP": {"attributes": ["easy install"]},
    "B0OATBARS1": {
        "attributes": ["gluten free"],
        "instruction": "Find me gluten free snack bars",
        "instruction_attributes": ["gluten free"],
    },
    "B0WOOLSOCK": {
        "attributes": ["winter warm"],
        "instruction": "Find me winter warm wool socks",
        "instruction_attributes": ["winter warm"],
    },
    "B0BLUERUGS": {
        "attributes": ["living room"],
        "instruction": "Find me area rugs for living room",
        "instruction_attributes": ["living room"],
    },
    "B0TEACUPS1": {
        "attributes": ["dishwasher safe"],
        "instruction": "Find me dishwasher safe tea cups",
        "instruction_attributes": ["dishwasher safe"],
    },
}

HUMAN = {
    "B0DESKLAMP": [
        {
            "asin": "B0DESKLAMP",
            "instruction": "i need a dimmable lamp in sky blue.",
            "instruction_attributes": ["dimmable"],
            "instruction_options": ["Sky Blue"],
        },
        {"asin": "B0DESKLAMP", "instruction": "nothing to check", "instruction_attributes": []},
    ]
}

SYNTHETIC_GOALS = 4 + 2 + 2 + 1 + 1
"""Two sizes by two colours, two flavours, one size by a colour listed twice, and two without options."""


def write_shop(folder: Path, *, human: bool = True, gzipped: bool = False) -> Path:
    """Write the shop's files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    products = json.dumps(ITEMS).encode()
    if gzipped:
        (folder / "items_shuffle_1000.json.gz").write_bytes(gzip.compress(products))
    else:
        (folder / "items_shuffle_1000.json").write_bytes(products)
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(ATTRIBUTES))
    if human:
        (folder / "items_human_ins.json").write_text(json.dumps(HUMAN))
    return folder


BARE = Product(
    asin="B000000000",
    title="Cedar Desk Lamp",
    description="",
    bullets=(),
    price=20.0,
    price_tag="$20.0",
    categories=frozenset({"Home", "Lamps"}),
    query="lamps",
    options=(),
    attributes=(),
    synthetic=None,
    human=(),
)


def product(title: str = BARE.title, **changes: object) -> Product:
    """A product with only what a test names."""
    return replace(BARE, title=title, **changes)


def option(name: str, *values: str) -> Option:
    """An option of a product."""
    return Option(name, values)


def goal(wanted: Product, *options: Choice, attributes: tuple[str, ...] = (), price_cap: float = 30.0) -> Goal:
    """A goal with only what a test names."""
    return Goal(wanted, "Find me a lamp", attributes, options, price_cap)
