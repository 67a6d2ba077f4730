"""The hand-made shop in a folder, and the real data where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.envs.webshop.catalogue import ATTRIBUTE_FILES, PRODUCT_FILES, find_file
from tests.envs.webshop.hand_made import write_shop


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the hand-made shop."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def real_folder(shared: Path) -> Path:
    """The folder of the real small catalogue."""
    folder = shared / "data" / "webshop"
    if find_file(folder, PRODUCT_FILES["small"]) is None or find_file(folder, ATTRIBUTE_FILES["small"]) is None:
        pytest.skip("no WebShop data beside the checkout: its products are not part of the project")
    return folder
