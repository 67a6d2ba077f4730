"""Goals: their texts, their price caps, who trains and evaluates on them."""

from __future__ import annotations

import collections
from pathlib import Path

from lamer.envs.webshop.catalogue import load_products
from lamer.envs.webshop.goals import NO_CAP, make_goals, split_goals
from tests.envs.webshop.hand_made import SYNTHETIC_GOALS


def test_a_product_has_a_goal_for_every_combination_of_its_options(shop_folder: Path) -> None:
    goals = make_goals(load_products(shop_folder, "small"), "synthetic", original=False)
    assert len(goals) == SYNTHETIC_GOALS
    lamps = [goal for goal in goals if goal.product.asin == "B0DESKLAMP"]
    assert [goal.options for goal in lamps] == [
        (("color", "sky blue"), ("size", "small")),
        (("color", "sky blue"), ("size", "large | tall")),
        (("color", "coal black"), ("size", "small")),
        (("color", "coal black"), ("size", "large | tall")),
    ]
    assert lamps[1].text == (
        "Find me dimmable, easy install desk lamps with color: sky blue, and size: large | tall"
        f", and price lower than {lamps[1].price_cap:.2f} dollars"
    )


def test_the_price_cap_is_the_larger_of_two_of_the_next_four_steps(shop_folder: Path) -> None:
    goals = make_goals(load_products(shop_folder, "small"), "synthetic", original=False)
    caps = {goal.product.asin: goal.price_cap for goal in goals}
    assert caps["B0DESKLAMP"] in (30, 40, 50)  # of 20, 30, 40, 50, which are above 19.99
    assert caps["B0WOOLSOCK"] in (30, 40, 50)  # of 20, 30, 40, 50
    assert caps["B0BLUERUGS"] == NO_CAP  # 1,049 dollars: no step is left
    assert "price" not in next(goal.text for goal in goals if goal.product.asin == "B0BLUERUGS")
    again = make_goals(load_products(shop_folder, "small"), "synthetic", original=False)
    assert {goal.product.asin: goal.price_cap for goal in again} == caps


def test_people_name_values_alone_and_instructions_without_attributes_are_no_goals(shop_folder: Path) -> None:
    products = load_products(shop_folder, "small")
    (goal,) = make_goals(products, "human", original=False)
    assert goal.text.startswith("i need a dimmable lamp in sky blue, and price lower than ")
    assert goal.options == (("", "sky blue"),)
    assert make_goals(products, "human", original=True)[0].options == (("", "Sky Blue"),)


def test_no_training_goal_is_an_evaluation_goal_and_the_original_has_such_pairs(shop_folder: Path) -> None:
    # The socks list a colour twice, so that two goals are the same; products that share an instruction do that too.
    goals = make_goals(load_products(shop_folder, "small"), "synthetic", original=False)
    overlaps = dict.fromkeys((False, True), 0)
    for original in overlaps:
        for evaluation in range(1, len(goals)):
            split = split_goals(goals, evaluation, original=original)
            assert len(split.evaluation) == evaluation
            held_out = {goal.text for goal in split.evaluation}
            overlaps[original] += sum(goal.text in held_out for goal in split.train)
    assert overlaps[False] == 0
    assert overlaps[True] > 0


def test_the_small_catalogue_has_6910_goals_of_which_500_evaluate(real_folder: Path) -> None:
    goals = make_goals(load_products(real_folder, "small"), "synthetic", original=False)
    assert len(goals) == 6910
    split, original = (split_goals(goals, 500, original=original) for original in (False, True))
    assert len(split.evaluation) == len(original.evaluation) == 500
    assert len(original.train) == 6410
    assert len(split.train) == 6401, "nine training goals are evaluation goals too"
    assert not {goal.text for goal in split.train} & {goal.text for goal in split.evaluation}


def test_prices_and_caps_of_the_small_catalogue_leave_every_product_affordable(real_folder: Path) -> None:
    goals = make_goals(load_products(real_folder, "small"), "synthetic", original=False)
    assert all(goal.product.price < goal.price_cap for goal in goals)
    caps = collections.Counter(goal.price_cap == NO_CAP for goal in goals)
    assert caps[True] < caps[False]
