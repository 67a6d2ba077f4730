"""What there is to shop for: goals made from the catalogue, and which are trained on.

    synthetic   a product's machine-written instruction with every combination of its options: 6,910 of the small
                catalogue
    human       instructions that people wrote

Goals are shuffled once with a fixed seed, the original's; the first ones (500) are for evaluation, the rest for
training. A goal in the very words of an evaluation goal is left out of training: options that a product lists twice
make such pairs, and products that share an instruction; 9 goals of the small catalogue. `original` keeps them.

The most that may be paid is drawn once for a product (synthetic) or an instruction (human): the larger of two of the
next four steps of $10 above the price, below $1,000.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lamer.envs.seeding import task_rng
from lamer.envs.webshop.catalogue import DATASET, Instruction, Product, option_value

GoalKind = Literal["synthetic", "human"]
Choice = tuple[str, str]
"""An option's name and the value wanted or chosen; the name is "" where a person asked for the value alone."""

NO_CAP = 1_000_000.0
SHUFFLE_SEED = 233

_PRICE_STEPS = tuple(10.0 * step for step in range(1, 100))
_NEXT_STEPS = 4


@dataclass(frozen=True, slots=True)
class Goal:
    """A product to buy, as asked for. text: the instruction, with options and price. price_cap: dollars at most."""

    product: Product
    text: str
    attributes: tuple[str, ...]
    options: tuple[Choice, ...]
    price_cap: float


@dataclass(frozen=True, slots=True)
class Split:
    """Goals in the order of their tasks."""

    train: tuple[Goal, ...]
    evaluation: tuple[Goal, ...]


def make_goals(products: Sequence[Product], kind: GoalKind, *, original: bool) -> list[Goal]:
    """Every goal of a catalogue, in its order.

    original: take what people ask for as it is written, not as pages show it.
    """
    if kind == "human":
        return [
            _human_goal(product, number, instruction, original=original)
            for product in products
            for number, instruction in enumerate(product.human)
            if instruction.attributes
        ]
    return [goal for product in products if product.synthetic for goal in _synthetic_goals(product, product.synthetic)]


def split_goals(goals: Sequence[Goal], evaluation: int, *, original: bool) -> Split:
    """Shuffle goals and keep the first `evaluation` of them for evaluation."""
    shuffled = list(goals)
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    held_out = {goal.text for goal in shuffled[:evaluation]}
    train = [goal for goal in shuffled[evaluation:] if original or goal.text not in held_out]
    return Split(tuple(train), tuple(shuffled[:evaluation]))


def _synthetic_goals(product: Product, instruction: Instruction) -> Iterator[Goal]:
    cap = _draw_cap(product.price, product.asin)
    options = sorted(product.options, key=lambda option: option.name)
    for values in itertools.product(*(option.values for option in options)):
        choices = tuple((option.name, value) for option, value in zip(options, values, strict=True))
        wanted = ", and ".join(f"{name}: {value}" for name, value in choices)
        text = f"{instruction.text}{' with ' + wanted if wanted else ''}{_price_text(cap)}"
        yield Goal(product, text, instruction.attributes, choices, cap)


def _human_goal(product: Product, number: int, instruction: Instruction, *, original: bool) -> Goal:
    cap = _draw_cap(product.price, product.asin, number)
    options = tuple(("", value if original else option_value(value)) for value in instruction.options)
    return Goal(product, instruction.text.strip(".") + _price_text(cap), instruction.attributes, options, cap)


def _draw_cap(price: float, *parts: str | int) -> float:
    steps = [step for step in _PRICE_STEPS if step > price][:_NEXT_STEPS]
    return max(task_rng(DATASET, "cap", *parts).sample(steps, 2)) if len(steps) > 1 else NO_CAP


def _price_text(cap: float) -> str:
    return "" if cap == NO_CAP else f", and price lower than {cap:.2f} dollars"
