"""The products of a shop, read from WebShop's data files.

    small                     full                  what it holds
    items_shuffle_1000.json   items_shuffle.json    products: 1,000, or all
    items_ins_v2_1000.json    items_ins_v2.json     their attributes and machine-written instructions
    items_human_ins.json      the same              instructions that people wrote, optional

A file may be gzipped; it is looked for under each of its names in turn. What the original loader drops (no ASIN, one of
more than ten characters, one met before) is dropped here too; so the small catalogue gives its 6,910 synthetic goals. A
price range is settled once, by a draw that depends on the ASIN alone.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from lamer.common.errors import BadInput
from lamer.envs.data import require_files
from lamer.envs.seeding import task_rng

DATASET = "webshop"
CatalogueSize = Literal["small", "full"]

_SMALL = "items_shuffle_1000.json"
PRODUCT_FILES = {
    "small": (_SMALL, f"{_SMALL}.gz", "items_shuffle_1000.rebuilt.json.gz"),
    "full": ("items_shuffle.json", "items_shuffle.json.gz"),
}
ATTRIBUTE_FILES = {
    "small": ("items_ins_v2_1000.json", "items_ins_v2_1000.json.gz"),
    "full": ("items_ins_v2.json", "items_ins_v2.json.gz"),
}
HUMAN_FILES = ("items_human_ins.json", "items_human_ins.json.gz", "items_human_ins.subset13.json")

_UNKNOWN_PRICE = 100.0
_LONGEST_ASIN = 10
_NOT_IN_A_NUMBER = re.compile(r"[^\d.]")

FileT = TypeVar("FileT")


@dataclass(frozen=True, slots=True)
class Option:
    """Something to choose before buying: "size" and its values in lower case, as the page shows them."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What someone asks for where this product is meant. options: values in words of the one who asks, () for all."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """One product. price: dollars, of a range the one that was drawn; price_tag: as pages show it.

    categories: the levels of its category. query: the search with which it was found on the real shop's site.
    attributes: what its texts were found to say about it. synthetic: the machine-written instruction, if it has one.
    human: those that people wrote.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price: float
    price_tag: str
    categories: frozenset[str]
    query: str
    options: tuple[Option, ...]
    attributes: tuple[str, ...]
    synthetic: Instruction | None
    human: tuple[Instruction, ...]


class _Value(msgspec.Struct):
    value: str


class _Item(msgspec.Struct):
    """The entries of a product that are read; the file has more."""

    asin: str
    name: str
    query: str
    product_category: str
    full_description: str | None = None
    small_description: list[str] | str | None = None
    pricing: str | None = None
    customization_options: dict[str, list[_Value] | None] | str | None = None


class _Attributes(msgspec.Struct):
    attributes: list[str] = []
    instruction: str | None = None
    instruction_attributes: list[str] | None = None


class _HumanInstruction(msgspec.Struct):
    instruction: str
    instruction_attributes: list[str]
    instruction_options: list[str] = []


def find_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of `names` that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def check_files(folder: Path, size: CatalogueSize, *, is_human: bool) -> None:
    """Check that a catalogue's files are there, also those of human instructions where they are needed.

    Raises:
        Missing: some are not.
    """
    needed = [PRODUCT_FILES[size], ATTRIBUTE_FILES[size], *([HUMAN_FILES] if is_human else [])]
    require_files(DATASET, folder, tuple(names[0] for names in needed if find_file(folder, names) is None))


def load_products(folder: Path, size: CatalogueSize) -> tuple[Product, ...]:
    """Every product of a catalogue in the order of its file.

    Raises:
        Missing: a file is not there. BadInput: one can't be read.
    """
    check_files(folder, size, is_human=False)
    items = _read(folder, PRODUCT_FILES[size], list[_Item]) or []
    attributes = _read(folder, ATTRIBUTE_FILES[size], dict[str, _Attributes]) or {}
    human = _read(folder, HUMAN_FILES, dict[str, list[_HumanInstruction]]) or {}
    products: dict[str, Product] = {}
    for item in items:
        if item.asin != "nan" and len(item.asin) <= _LONGEST_ASIN and item.asin not in products:
            known = attributes.get(item.asin, _Attributes())
            products[item.asin] = _product(item, known, human.get(item.asin, []))
    return tuple(products.values())


def option_value(text: str) -> str:
    """An option's value as pages and goals show it."""
    return text.strip().replace("/", " | ").lower()


def _product(item: _Item, known: _Attributes, human: list[_HumanInstruction]) -> Product:
    prices = _prices(item.pricing)
    bullets = [item.small_description] if isinstance(item.small_description, str) else item.small_description or []
    customization = item.customization_options if isinstance(item.customization_options, dict) else {}
    return Product(
        asin=item.asin,
        title=item.name,
        description=item.full_description or "",
        bullets=tuple(bullets),
        price=prices[0] if len(prices) == 1 else task_rng(DATASET, "price", item.asin).uniform(*prices),
        price_tag=" to ".join(f"${price}" for price in prices),
        categories=frozenset(level.strip() for level in item.product_category.split("›")),
        query=item.query.lower().strip(),
        options=tuple(
            Option(name.lower(), tuple(option_value(each.value) for each in values))
            for name, values in customization.items()
            if values is not None
        ),
        attributes=tuple(known.attributes),
        synthetic=Instruction(known.instruction, tuple(known.instruction_attributes or ()))
        if known.instruction
        else None,
        human=tuple(
            Instruction(each.instruction, tuple(each.instruction_attributes), tuple(each.instruction_options))
            for each in human
        ),
    )


def _prices(pricing: str | None) -> tuple[float, ...]:
    """One price, or the two ends of a range; the original's 100 dollars where there is none."""
    parts = [_NOT_IN_A_NUMBER.sub("", part) for part in (pricing or "").split("$")[1:]]
    return tuple(float(part) for part in parts if part)[:2] or (_UNKNOWN_PRICE,)


def _read(folder: Path, names: tuple[str, ...], kind: type[FileT]) -> FileT | None:
    """The content of the first of `names` that is there; None where none is."""
    path = find_file(folder, names)
    if path is None:
        return None
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            return msgspec.json.decode(data, type=kind)
        except UnicodeDecodeError:
            return msgspec.json.decode(data.decode("utf-8", "replace"), type=kind)
    except (msgspec.DecodeError, OSError, EOFError) as error:
        raise BadInput(f"{path} is no WebShop data: {error}; run `lamer data check {DATASET}`") from error
