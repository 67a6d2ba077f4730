"""The score of a purchase, from 0 to 1, after WebShop.

    score = type factor * (attribute hits + option hits + [price <= cap]) / (attributes + options + 1)

Type factor. The title score is the number of different nouns that the two titles share over the length of the goal's
list of nouns, 0.2 where that is empty. The factor is 1 if both products were found by the same query, share two levels
of their categories or have a title score above 0.2, else 0.5; but 0.1 where the title score is below 0.1, and 0 where
it is 0.

Hits are fuzzy: rapidfuzz's token set ratio, rounded, above 85. An attribute also counts where the product's title,
bullets or description hold it to the letter. Options are compared by their first colour word where they hold one.

`original` keeps how the original compares options: what the goal wants together with the option's name, which no longer
gives its colour word away. Then even the very product that is asked for scores below 1 for 458 of the 6,910 goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, utils

from lamer.envs.webshop.catalogue import Product
from lamer.envs.webshop.goals import Choice, Goal
from lamer.envs.webshop.nouns import Nouns

_SIMILAR = 85

# The colour words that WebShop looks for, in its order (web_agent_site/engine/normalize.py).
_COLOUR_WORDS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom
mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire
seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white
wine yellow
"""
_COLOURS = tuple(_COLOUR_WORDS.split())


@dataclass(frozen=True, slots=True)
class Score:
    """A purchase, judged. value: the score."""

    type_factor: float
    attribute_hits: int
    option_hits: int
    is_price_met: bool
    value: float


def judge(product: Product, chosen: Sequence[Choice], goal: Goal, nouns: Nouns, *, original: bool = False) -> Score:
    """The score of buying `product` with the options `chosen` where `goal` was asked for."""
    factor = type_factor(product, goal.product, nouns)
    attributes = sum(_has_attribute(product, attribute) for attribute in goal.attributes)
    options = sum(_is_chosen(wanted, chosen, original=original) for wanted in goal.options)
    is_price_met = product.price <= goal.price_cap
    value = factor * (attributes + options + is_price_met) / (len(goal.attributes) + len(goal.options) + 1)
    return Score(factor, attributes, options, is_price_met, value)


def type_factor(product: Product, wanted: Product, nouns: Nouns) -> float:
    """How far `product` is the kind of thing that `wanted` is: 1, 0.5, 0.1 or 0."""
    asked = nouns(wanted.title)
    title_score = len(set(asked) & set(nouns(product.title))) / len(asked) if asked else 0.2
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    is_alike = product.query == wanted.query or len(product.categories & wanted.categories) > 1 or title_score > 0.2
    return 1.0 if is_alike else 0.5


def first_colour(text: str) -> str:
    """The first of the colour words that a text holds, anywhere in a word; the text itself where it holds none."""
    return next((colour for colour in _COLOURS if colour in text), text)


def is_similar(first: str, second: str) -> bool:
    """Whether two texts are alike: case, punctuation and letters beyond ASCII aside."""
    return round(fuzz.token_set_ratio(_plain(first), _plain(second))) > _SIMILAR


def _plain(text: str) -> str:
    return utils.default_process(text.encode("ascii", "ignore").decode("ascii"))


def _has_attribute(product: Product, attribute: str) -> bool:
    if any(is_similar(own, attribute) for own in product.attributes):
        return True
    return any(attribute in text.lower() for text in (product.title, " ".join(product.bullets), product.description))


def _is_chosen(wanted: Choice, chosen: Sequence[Choice], *, original: bool) -> bool:
    name, value = wanted
    if original:
        asked = _first_whole_colour(name, value) if name else first_colour(value)
        return any(is_similar(first_colour(other), asked) for _, other in chosen)
    asked = first_colour(value)
    return any(other == value or is_similar(first_colour(other), asked) for _, other in chosen)


def _first_whole_colour(name: str, value: str) -> str:
    """What the original makes of an option it wants: a colour word only if that is the whole value."""
    return next((colour for colour in _COLOURS if colour in (name, value)), f"{name} {value}")
