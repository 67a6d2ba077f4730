"""Actions, where they lead, and what pages say: a walk through the hand-made shop."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.envs.webshop.actions import Action, click, parse_action, search
from lamer.envs.webshop.pages import cut_fields, fields, page_text
from lamer.envs.webshop.session import Page, Visit, available, can_search, clicks, follow
from lamer.envs.webshop.shop import Shop, load_shop
from tests.envs.webshop.hand_made import option, product

PARSED = {
    "search[red shoes]": search("red shoes"),
    " Click[Back to  Search] ": click("back to search"),
    "click[[x] large 11.5]": click("[x] large 11.5"),
    "search[under $50.00]": search("under $50.00"),
    "search [two\nlines]": search("two lines"),
}


@pytest.mark.parametrize("text", PARSED)
def test_an_action_is_read_in_any_case_with_single_spaces(text: str) -> None:
    assert parse_action(text) == PARSED[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "search",
        "search[]",
        "click[ ]",
        "buy[x]",
        "search[a",
        "search[a] then",
        "search[a] click[b]",
        "click[x]]",
        "[x]",
    ],
)
def test_what_is_no_action_is_none(text: str) -> None:
    assert parse_action(text) is None


@pytest.fixture
def shop(shop_folder: Path) -> Shop:
    return load_shop(shop_folder, "small")


def walk(shop: Shop, *actions: Action, original: bool = False) -> Visit:
    """Where actions lead, each of which can be done."""
    visit = Visit()
    for action in actions:
        after = follow(visit, action, shop, original=original)
        assert after is not None, f"{action} on the page {visit.page}"
        visit = after
    return visit


LAMP = (search("Cedar lamp"), click("b0desklamp"))


def test_the_search_page_takes_a_search_and_nothing_else(shop: Shop) -> None:
    assert page_text(Visit()) == "'Search'"
    assert clicks(Visit()) == ()
    assert can_search(Visit())
    assert follow(Visit(), click("buy now"), shop) is None


def test_results_list_codes_titles_and_prices(shop: Shop) -> None:
    visit = walk(shop, search("Cedar lamp"))
    assert visit.page is Page.RESULTS
    assert page_text(visit) == (
        "'Back to Search' [SEP] 'Page 1 (Total results: 2)' [SEP] 'B0DESKLAMP' [SEP] 'Cedar Desk Lamp' [SEP] '$19.99'"
        " [SEP] 'B0FLOORLMP' [SEP] 'Pine Floor Lamp' [SEP] '$35.0 to $44.0'"
    )
    assert clicks(visit) == ("back to search", "b0desklamp", "b0floorlmp")
    assert not can_search(visit)


def test_a_search_without_hits_leads_to_an_empty_page(shop: Shop) -> None:
    visit = walk(shop, search("zeppelin"))
    assert page_text(visit) == "'Back to Search' [SEP] 'Page 1 (Total results: 0)'"
    assert clicks(visit) == ("back to search",)


def test_an_item_lists_its_options_facts_and_buttons(shop: Shop) -> None:
    visit = walk(shop, *LAMP)
    assert page_text(visit) == (
        "'Back to Search' [SEP] '< Prev' [SEP] 'size' [SEP] 'small' [SEP] 'large | tall' [SEP] 'color' [SEP] 'sky blue'"
        " [SEP] 'coal black' [SEP] 'Cedar Desk Lamp' [SEP] 'Price: $19.99' [SEP] 'Rating: N.A.' [SEP] 'Description'"
        " [SEP] 'Features' [SEP] 'Reviews' [SEP] 'Buy Now'"
    )
    assert clicks(visit) == (
        "back to search", "< prev", "description", "features", "reviews", "buy now",
        "small", "large | tall", "sky blue", "coal black",
    )  # fmt: skip


def test_details_say_more_and_lead_back_with_the_options_kept(shop: Shop) -> None:
    chosen = (*LAMP, click("small"))
    details = {
        "description": ("A lamp of solid cedar.",),
        "features": ("Warm light", "Dimmable in three steps"),
        "reviews": ("No reviews found",),
    }
    for name, texts in details.items():
        visit = walk(shop, *chosen, click(name))
        assert fields(visit) == ("Back to Search", "< Prev", *texts)
        assert clicks(visit) == ("back to search", "< prev")
        assert walk(shop, *chosen, click(name), click("< prev")) == walk(shop, *chosen)
    bare = walk(shop, search("pine"), click("b0floorlmp"), click("description"))
    assert fields(bare)[2:] == ("No Description",)
    assert fields(walk(shop, search("pine"), click("b0floorlmp"), click("features")))[2:] == ("No Features",)


def test_options_are_chosen_by_value_the_last_one_counts_and_results_forget_them(shop: Shop) -> None:
    visit = walk(shop, *LAMP, click("Sky Blue"), click("small"), click("coal black"))
    assert visit.chosen == (("color", "coal black"), ("size", "small"))
    assert page_text(visit) == page_text(walk(shop, *LAMP)), "the page doesn't show what is chosen"
    assert walk(shop, *LAMP, click("small"), click("< prev")) == walk(shop, LAMP[0])
    assert walk(shop, *LAMP, click("small"), click("back to search")) == Visit()


def test_buying_ends_the_visit(shop: Shop) -> None:
    visit = walk(shop, *LAMP, click("small"), click("buy now"))
    assert visit.page is Page.DONE
    assert visit.product is not None
    assert (visit.product.asin, visit.chosen) == ("B0DESKLAMP", (("size", "small"),))
    assert fields(visit) == ("Thank you for shopping with us!",)
    assert available(visit) == ()
    assert not can_search(visit)


def test_results_come_in_pages_of_ten_of_fifty_at_most(real_folder: Path) -> None:
    shop = load_shop(real_folder, "small")
    visit = walk(shop, search("women shoes"))
    seen = list(visit.listed)
    assert clicks(visit)[:2] == ("back to search", "next >")
    while visit.has_next:
        visit = follow(visit, click("next >"), shop) or visit
        assert "< prev" in clicks(visit)
        assert f"Page {visit.number} (Total results: {len(visit.hits)})" in page_text(visit)
        seen += visit.listed
    assert tuple(seen) == visit.hits
    assert len(seen) == 50
    assert walk(shop, search("women shoes"), click("next >"), click("< prev")) == walk(shop, search("women shoes"))
    item = click(visit.listed[0].asin)
    back = follow(follow(visit, item, shop) or visit, click("< prev"), shop)
    assert back == visit, "from an item to the same page of results"


def test_a_value_that_two_options_offer_is_chosen_for_one_after_the_other(shop: Shop) -> None:
    sofa = product("Sofa", options=(option("frame", "oak", "ash"), option("legs", "oak", "pine")))
    visit = Visit(Page.ITEM, product=sofa)
    first = follow(visit, click("oak"), shop)
    assert first is not None
    assert first.chosen == (("frame", "oak"),)
    second = follow(first, click("oak"), shop)
    assert second is not None
    assert second.chosen == (("frame", "oak"), ("legs", "oak"))
    assert follow(second, click("oak"), shop) == second


def test_values_with_brackets_and_double_spaces_can_be_clicked(shop: Shop) -> None:
    shirt = product("Shirt", options=(option("size", "[x]  large", "w |  l"),))
    visit = Visit(Page.ITEM, product=shirt)
    for text, value in (("click[[X] large]", "[x]  large"), ("click[w | l]", "w |  l")):
        action = parse_action(text)
        assert action is not None
        after = follow(visit, action, shop)
        assert after is not None
        assert after.chosen == (("size", value),)


def test_in_the_original_search_works_everywhere_and_the_search_button_does_nothing(shop: Shop) -> None:
    visit = walk(shop, click("search"), *LAMP, original=True)
    assert can_search(visit, original=True)
    assert follow(visit, search("rug"), shop, original=True) == walk(shop, search("rug"))
    assert follow(visit, search("rug"), shop) is None


def test_long_pages_are_cut_to_their_first_texts_and_say_how_many_follow(shop: Shop) -> None:
    text = page_text(walk(shop, search("cedar lamp")))
    assert cut_fields(text, 3) == "'Back to Search' [SEP] 'Page 1 (Total results: 2)' [SEP] 'B0DESKLAMP' ... (5 more)"
    assert cut_fields(text, 8) == text
