"""Fixtures for every test: where shared data lies, and one thread for torch and BLAS so that runs are equal."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.architecture.tree import PACKAGES

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

WHOLE_RUNS = ("tests/chaos/", "tests/integration/", "tests/deploy/bench/")
"""Tests that start many processes each: they run one after the other, in one worker, beside the others."""
CHECKOUT = Path(__file__).resolve().parent.parent


class NoSecondSpelling(MetaPathFinder):
    """Refuses `import common` where the repository's root is on the path: it would load a second copy of each class."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name in PACKAGES:
            raise ModuleNotFoundError(f"import lamer.{name}, not {name}", name=name)


sys.meta_path.insert(0, NoSecondSpelling())


class FilesAndWholeRuns(LoadScopeScheduling):
    """Keeps a file's tests in one worker, since they share its fixtures, and those of whole runs in one altogether."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "whole runs" if file.startswith(WHOLE_RUNS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndWholeRuns:
    """How `pytest -n` shares the tests out."""
    return FilesAndWholeRuns(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: golden files and environment data."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the checkout: its golden files and data are not part of the project")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed, as text that a worker process can send: tests of invalid bytes log surrogates."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
