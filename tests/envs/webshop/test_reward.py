"""The score of a purchase, hand-worked; what the original gets wrong, counted on the real goals."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.envs.webshop.catalogue import Product, load_products
from lamer.envs.webshop.goals import Choice, make_goals
from lamer.envs.webshop.nouns import by_rules, has_spacy, nouns_by
from lamer.envs.webshop.reward import first_colour, is_similar, judge, type_factor
from tests.envs.webshop.hand_made import goal, option, product

LAMP = product(attributes=("dimmable", "easy to install"), options=(option("color", "sky blue"), option("size", "8")))


def score(*chosen: Choice, bought: Product = LAMP) -> float:
    wanted = goal(LAMP, ("color", "sky blue"), ("size", "8"), attributes=("dimmable", "easy install"), price_cap=30.0)
    return judge(bought, chosen, wanted, by_rules).value


def test_the_very_product_with_its_options_scores_one() -> None:
    assert score(("color", "sky blue"), ("size", "8")) == 1


def test_what_is_missing_costs_its_share() -> None:
    # Two attributes, two options, the price: five parts.
    assert score(("color", "sky blue")) == pytest.approx(4 / 5)
    assert score() == pytest.approx(3 / 5)
    assert score(("color", "red"), ("size", "8")) == pytest.approx(4 / 5)
    plain = product(price=31.0)
    assert score(("color", "sky blue"), ("size", "8"), bought=plain) == pytest.approx(2 / 5)


def test_an_attribute_counts_when_it_is_alike_or_stands_in_a_text_to_the_letter() -> None:
    in_title = product("Cedar Desk Lamp, Dimmable", bullets=("Very easy install",))
    assert score(("color", "sky blue"), ("size", "8"), bought=in_title) == 1
    in_no_text = product("Cedar Desk Lamp", bullets=("Very easy", "install"))
    assert score(("color", "sky blue"), ("size", "8"), bought=in_no_text) == pytest.approx(4 / 5), "joined by a space"


def test_colours_are_compared_by_their_first_colour_word() -> None:
    # "first" in the alphabet, anywhere in a word: sky blue and navy blue are both blue, rectangular holds tan.
    assert [first_colour(text) for text in ("sky blue", "navy blue", "rectangular", "size 8")] == [
        "blue", "blue", "tan", "size 8",
    ]  # fmt: skip
    assert score(("color", "navy blue"), ("size", "8")) == 1


def test_similarity_ignores_case_punctuation_and_other_alphabets_and_is_rounded() -> None:
    assert is_similar("Easy-Install", "easy install ™")
    assert is_similar("install easy and fast", "easy install")
    assert not is_similar("easy", "dimmable")
    assert not is_similar("", "")


TYPES = {
    # the same query counts whatever the titles share, as long as it is a tenth of the goal's nouns
    ("Lamp", "Cedar Lamp Brass Oak", "q", "q"): 1.0,
    ("Lamp", "Cedar Lamp Brass Oak", "q", "other"): 1.0,  # 1/4 is above 0.2
    ("Lamp", "Cedar Lamp Brass Oak Pine", "q", "other"): 0.5,  # 1/5 is not
    ("Lamp", "Lamp one a b2 c3 d4 e5 f6 g7 h8 i9 j10 k11", "q", "other"): 0.1,  # 1/11
    ("Lamp", "Lamp one a b2 c3 d4 e5 f6 g7 h8 i9 j10 k11", "q", "q"): 0.1,
    ("Rug", "Cedar Lamp", "q", "q"): 0.0,
    ("Rug", "12 34", "q", "other"): 0.5,  # no nouns: 0.2
}


@pytest.mark.parametrize("case", TYPES)
def test_the_type_factor_of_hand_worked_titles(case: tuple[str, str, str, str]) -> None:
    bought, wanted, bought_query, wanted_query = case
    first = product(bought, query=bought_query, categories=frozenset({"Home", "A"}))
    second = product(wanted, query=wanted_query, categories=frozenset({"Home", "B"}))
    assert type_factor(first, second, by_rules) == TYPES[case]


def test_two_shared_levels_of_categories_count_as_the_same_type() -> None:
    wanted = product("Cedar Lamp Brass Oak Pine", query="other")
    assert type_factor(product("Lamp"), wanted, by_rules) == 1.0
    assert type_factor(product("Lamp", categories=frozenset({"Home"})), wanted, by_rules) == 0.5


def test_a_repeated_noun_counts_once_among_the_shared_and_each_time_among_the_wanted() -> None:
    wanted = product("Lamp Lamp Lamp Lamp Lamp", query="other", categories=frozenset())
    assert type_factor(wanted, wanted, by_rules) == 1.0, "the same query"
    assert type_factor(product("Lamp", query="q", categories=frozenset()), wanted, by_rules) == 0.5, "1/5"


def test_the_original_compares_options_with_their_names_and_loses_colours() -> None:
    # "blueberry" holds blue: chosen it becomes "blue", wanted it stays "flavor blueberry".
    bars = product("Oat Bars", options=(option("flavor", "blueberry"),))
    wanted = goal(bars, ("flavor", "blueberry"))
    chosen = [("flavor", "blueberry")]
    assert judge(bars, chosen, wanted, by_rules).value == 1
    assert judge(bars, chosen, wanted, by_rules, original=True).value == pytest.approx(1 / 2)
    blue = goal(bars, ("flavor", "blue"))
    assert judge(bars, [("flavor", "blue")], blue, by_rules, original=True).value == 1, "the whole value is a colour"


def test_an_option_without_letters_that_can_be_compared_counts_when_it_is_chosen_exactly() -> None:
    rug = product("Rug", options=(option("size", "①"),))
    assert judge(rug, [("size", "①")], goal(rug, ("size", "①")), by_rules).value == 1
    assert judge(rug, [("size", "①")], goal(rug, ("size", "①")), by_rules, original=True).value < 1


def test_nouns_by_rules_leave_out_function_words_numbers_and_clitics() -> None:
    assert by_rules("Women's Coat for the Winter, 2 Pack w/ Hood 3XL") == (
        "women", "coat", "winter", "pack", "w", "hood", "3xl",
    )  # fmt: skip


def test_spacy_finds_nouns_where_it_is_installed() -> None:
    if not has_spacy():
        pytest.skip("spaCy or its model en_core_web_sm is not installed")
    assert "lamp" in nouns_by("spacy")("Cedar Desk Lamp")


def test_every_goals_own_product_scores_one_and_458_times_not_in_the_original(real_folder: Path) -> None:
    goals = make_goals(load_products(real_folder, "small"), "synthetic", original=False)

    def failures(*, original: bool) -> int:
        found = (judge(goal.product, goal.options, goal, by_rules, original=original).value for goal in goals)
        return sum(value != 1 for value in found)

    assert failures(original=False) == 0
    assert failures(original=True) == 458
