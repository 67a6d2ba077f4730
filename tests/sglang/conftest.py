"""The fixtures of whole runs, and no run without SGLang."""

from __future__ import annotations

import pytest

from deploy.inference.sglang import CHECKOUT_PYTHON
from tests.integration.conftest import folder, lamer, train

__all__ = ["folder", "lamer", "train"]


@pytest.fixture(autouse=True)
def _sglang() -> None:
    if not CHECKOUT_PYTHON.is_file():
        pytest.skip("no SGLang here: `make sglang-cpu` builds its environment")
