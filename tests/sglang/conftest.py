"""The fixtures of whole runs, figures for whoever runs the tests, and no run without SGLang."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lamer.deploy.inference.engines.sglang import CHECKOUT_PYTHON
from tests.integration.conftest import folder, lamer, train

__all__ = ["folder", "lamer", "train"]

Say = Callable[[str], None]


@pytest.fixture(autouse=True)
def _sglang() -> None:
    if not CHECKOUT_PYTHON.is_file():
        pytest.skip("no SGLang here: `make sglang-cpu` builds its environment")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints a figure past pytest's capture, so that a passing run shows it."""

    def print_now(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return print_now
