"""The servers under test: one for each engine in `served.ENGINES`, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.served import ENGINES, START_SECONDS, Served, write_models


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


PARAMETERS = [
    "embedded",
    pytest.param("sglang", marks=[pytest.mark.sglang, pytest.mark.timeout(START_SECONDS + 60)]),
]


@pytest.fixture(scope="session", params=PARAMETERS)
def running_server(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Served]:
    with ENGINES[request.param](folders) as served:
        yield served


@pytest.fixture
def server(running_server: Served) -> Iterator[Served]:
    running_server.reset()
    yield running_server
    running_server.reset()
