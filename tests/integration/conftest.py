"""One folder for the runs of a test session, so that their model is created once; processes that end with a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.processes import TINY, Started, start

Lamer = Callable[..., Started]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `lamer` is started: its runs lie in runs/, each test names its own."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def lamer(folder: Path) -> Iterator[Lamer]:
    """Starts `lamer ARGUMENTS`; what still runs after the test is killed."""
    started: list[Started] = []

    def run(*arguments: str) -> Started:
        started.append(start(arguments, folder, arguments[0]))
        return started[-1]

    yield run
    for process in started:
        process.end()


@pytest.fixture
def train(lamer: Lamer) -> Lamer:
    """Starts `lamer train` on tiny.yaml: the run's name, then overrides and flags."""

    def run(name: str, *arguments: str) -> Started:
        return lamer("train", "-c", str(TINY), "--name", name, "--plain", *arguments)

    return run
