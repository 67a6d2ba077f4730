"""Several servers under one run: one that is killed, one that joins late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.processes import Started
from tests.integration.servers import kill_one_and_add_a_third

pytestmark = pytest.mark.timeout(300)


async def test_a_killed_server_comes_back_and_a_third_takes_its_share(
    folder: Path, lamer: Callable[..., Started], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await kill_one_and_add_a_third(folder, lamer, monkeypatch, "embedded")
    assert "inference_error" not in caplog.text
