"""Pages say what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.common.errors import BadInput
from lamer.deploy.experiments.quotes import pages, requoted

CHECKOUT = Path(__file__).resolve().parents[3]
DOCS = CHECKOUT / "docs"


@pytest.mark.parametrize("page", pages(CHECKOUT), ids=lambda page: page.name)
def test_a_page_quotes_the_figures_of_the_committed_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert requoted(text, DOCS) == text, "write them anew: make figures"


def test_the_readme_does_quote_figures() -> None:
    assert (CHECKOUT / "README.md").read_text(encoding="utf-8").count("<!-- cells ") > 30


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("cells doors/gigpo@3 each 2", "1.00 1.00 1.00"),
        ("cells doors/no_credit@3 each 3", ".800 .617 .794"),
        ("cells doors/no_credit@3 mean 3", ".737"),
        ("cells doors/rl:memory@3 mean 2", ".36"),
        ("cells doors/gigpo=independent guesses@3 mean 3", ".488"),
        ("cells staleness/uncorrected[staleness=8]@3 mean 3", ".664"),
        ("bench engine-cpu-2cores.json embedded.seconds / left_padded.seconds 2", "0.51"),
        ("bench games-alfworld-2cores.json steps 0", "7,836"),
        ("bench rollout-simulated.json schedules.5.trajectories_per_update 0", "384"),
    ],
)
def test_a_quote_takes_its_figure_from_the_file_that_a_run_left(asked: str, expected: str) -> None:
    """Of a wrong figure the right one is made."""
    assert (
        requoted(f"so <!-- {asked} -->.123<!-- end --> it is", DOCS)
        == f"so <!-- {asked} -->{expected}<!-- end --> it is"
    )


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("cells doors/gigpo@3 2", "is not EXPERIMENT/ARM"),
        ("cells doors/gigo@3 each 2", "names no committed cell"),
        ("cells doors/gigpo:memory@3 each 2", "has no such evaluation"),
        ("bench nothing.json steps 0", "names nothing that is there"),
        ("bench games-alfworld-2cores.json env 0", "names nothing that is there"),
    ],
)
def test_a_quote_of_what_is_not_there_is_refused(asked: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        requoted(f"<!-- {asked} -->1<!-- end -->", DOCS)
