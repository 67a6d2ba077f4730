"""The search engine: how texts are analysed, hand-worked scores, and the real engine's own rankings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lamer.envs.webshop.analysis import analyse
from lamer.envs.webshop.catalogue import load_products
from lamer.envs.webshop.search import SearchIndex, product_text, stored_length
from lamer.envs.webshop.shop import load_shop

ANALYSED = {
    "The Women's coats and a man’s hat": ["women", "coat", "man", "hat"],
    "3.5 tog, 1,000 pieces, u.s.a": ["3.5", "tog", "1,000", "piec", "u.s.a"],
    "x-large T-Shirt/sweater": ["x", "larg", "t", "shirt", "sweater"],
    "easy assembly, technologies": ["easi", "assembl", "technolog"],
    "hot🔥🔥offer": ["hot", "🔥", "🔥", "offer"],
    "size: 5,5 10ml you.women": ["size", "5,5", "10ml", "you.women"],
    "to be or not to be": [],
    "us use as s, bs easy-to-us": ["us", "us", "s", "bs", "easi", "us"],  # words of two letters have no ending
    "trekking revved passing possibly apologies": ["trek", "rev", "pass", "possibl", "apolog"],
    "Valentine‘s L’Oreal’S size：Large 1-1⁄2 6\u00adpack": [
        "valentine‘",
        "l’oreal",
        "size：larg",
        "1",
        "1⁄2",
        "6\u00adpack",
    ],
    "US:6 _ UK:10 __ a_b ✿★✿☪ ½ 100m² ❤\ufe0f": ["us", "6", "uk", "10", "a_b", "★", "☪", "100m", "❤\ufe0f"],
    "阳光 ひら ｶﾀｶﾅ café 1️⃣ 👨‍👩‍👧": ["阳", "光", "ひ", "ら", "ｶﾀｶﾅ", "café", "1️⃣", "👨‍👩‍👧"],
}


@pytest.mark.parametrize("text", ANALYSED)
def test_texts_are_analysed_as_lucene_does(text: str) -> None:
    assert analyse(text) == ANALYSED[text]


def test_a_length_is_kept_as_one_byte_gives_it_back() -> None:
    # Lucene's SmallFloat: exact below 40, then four significant bits of what exceeds 24.
    assert [stored_length(length) for length in (0, 23, 39, 40, 41, 56, 59, 310, 312)] == [
        0, 23, 39, 40, 40, 56, 56, 280, 312,
    ]  # fmt: skip


def index_of(*texts: str) -> SearchIndex:
    """An index of texts that are named in their order."""
    return SearchIndex((str(number), text) for number, text in enumerate(texts))


def test_texts_are_ranked_by_hand_worked_scores() -> None:
    index = index_of("red lamp", "red red lamp lamp shade", "blue rug")
    assert index.search("red", 10) == [1, 0]
    assert index.search("shade blue", 10) == [2, 1]  # one text each, the shorter first
    assert index.search("lamp rug", 1) == [2]
    assert index.search("green", 10) == []
    assert index.search("the", 10) == []


def test_a_score_is_bm25_without_the_factor_that_ranks_nothing() -> None:
    # One of two texts of two words each holds "red": idf = ln(1 + 1.5 / 1.5), tf part = 1 / (1 + 0.9).
    index = index_of("red lamp", "blue rug")
    _, weights = index._terms["red"]
    assert float(weights[0]) == pytest.approx(math.log(2) / 1.9)


def test_equal_texts_come_by_name_and_a_repeated_word_counts_twice() -> None:
    index = SearchIndex([("B2", "oak table"), ("B1", "oak table"), ("A9", "pine chair pine")])
    assert index.search("table", 10) == [1, 0]
    assert index.search("table", 1) == [1], "also where the list ends between them"
    assert index.search("oak pine", 10)[0] == 2
    assert index.search("oak oak oak pine", 10)[0] == 1


def test_title_description_first_bullet_and_options_are_searched(shop_folder: Path) -> None:
    lamp = load_products(shop_folder, "small")[0]
    assert product_text(lamp) == (
        "Cedar Desk Lamp A lamp of solid cedar. Warm light  size: small, large | tall, and color: sky blue, coal black"
    )
    shop = load_shop(shop_folder, "small")
    assert [product.asin for product in shop.search("cedar lamp")] == ["B0DESKLAMP", "B0FLOORLMP"]
    assert shop.search("three steps") == (), "only in the second bullet"


def test_rankings_are_the_real_engines(real_folder: Path) -> None:
    lines = (real_folder / "lucene_top10.jsonl").read_text().splitlines()
    shop = load_shop(real_folder, "small")
    differing = []
    for line in lines:
        query, top10 = (json.loads(line)[key] for key in ("query", "top10"))
        expected = [asin for asin, _ in top10]
        if [product.asin for product in shop.search(query)[: len(expected)]] != expected:
            differing.append(query)
    assert len(lines) == 200
    assert differing == []
