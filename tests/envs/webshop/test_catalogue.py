"""Reading WebShop's files: what is kept of a product, which files count, what goes wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.envs.webshop.catalogue import Option, check_files, load_products
from tests.envs.webshop.hand_made import ITEMS, write_shop


def test_a_product_is_read_as_pages_show_it(shop_folder: Path) -> None:
    lamp = load_products(shop_folder, "small")[0]
    assert lamp.title == "Cedar Desk Lamp"
    assert lamp.query == "desk lamps"
    assert lamp.categories == {"Home & Kitchen", "Lighting", "Lamps"}
    assert (lamp.price, lamp.price_tag) == (19.99, "$19.99")
    assert lamp.options == (Option("size", ("small", "large | tall")), Option("color", ("sky blue", "coal black")))
    assert lamp.attributes == ("dimmable", "easy install")


def test_products_without_a_code_with_a_long_one_or_met_before_are_dropped(shop_folder: Path) -> None:
    products = load_products(shop_folder, "small")
    assert [product.asin for product in products] == [str(item["asin"]) for item in ITEMS[:9]]


def test_a_price_range_is_drawn_once_and_an_unknown_price_is_a_hundred_dollars(shop_folder: Path) -> None:
    products = {product.asin: product for product in load_products(shop_folder, "small")}
    floor_lamp = products["B0FLOORLMP"]
    assert floor_lamp.price_tag == "$35.0 to $44.0"
    assert 35 <= floor_lamp.price <= 44
    assert floor_lamp.price == {each.asin: each for each in load_products(shop_folder, "small")}["B0FLOORLMP"].price
    assert products["B0TEACUPS1"].price == 100
    assert products["B0BLUERUGS"].price == 1049


def test_one_bullet_may_stand_as_a_text(shop_folder: Path) -> None:
    assert load_products(shop_folder, "small")[2].bullets == ("Gluten free oats",)


def test_files_may_be_gzipped_and_human_instructions_may_be_missing(shop_folder: Path, tmp_path: Path) -> None:
    zipped = load_products(write_shop(tmp_path, human=False, gzipped=True), "small")
    assert [product.title for product in zipped] == [product.title for product in load_products(shop_folder, "small")]
    assert all(product.human == () for product in zipped)


def test_missing_files_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"lacks items_shuffle_1000.json, items_ins_v2_1000.json; run `lamer data fetch"):
        load_products(tmp_path, "small")
    with pytest.raises(Missing, match=r"lacks items_shuffle.json, items_ins_v2.json;"):
        load_products(tmp_path, "full")
    with pytest.raises(Missing, match=r"lacks items_human_ins.json;"):
        check_files(write_shop(tmp_path, human=False), "small", is_human=True)


@pytest.mark.parametrize("content", [b"{", b'{"asin": 1}', b'[{"asin": "B0"}]'])
def test_a_file_that_is_no_list_of_products_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_shop(tmp_path)
    (folder / "items_shuffle_1000.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"items_shuffle_1000.json is no WebShop data"):
        load_products(folder, "small")


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_byte_that_is_no_text_costs_a_character_and_not_the_shop(tmp_path: Path, gzipped: bool) -> None:
    folder = write_shop(tmp_path, gzipped=gzipped)
    path = folder / ("items_shuffle_1000.json.gz" if gzipped else "items_shuffle_1000.json")
    data = gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()
    title = load_products(folder, "small")[0].title
    damaged = data.replace(title.encode(), b"\xff" + title.encode()[1:], 1)
    path.write_bytes(gzip.compress(damaged) if gzipped else damaged)
    assert load_products(folder, "small")[0].title == "\ufffd" + title[1:]


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    folder = write_shop(tmp_path, gzipped=True)
    path = folder / "items_shuffle_1000.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"items_shuffle_1000.json.gz is no WebShop data"):
        load_products(folder, "small")
