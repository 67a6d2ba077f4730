"""Figures quoted in pages: `README.md` and `docs/*.md` take what a run made from the file that the run left.

    <!-- cells doors/gigpo@3 each 2 -->1.00 1.00 1.00<!-- end -->

    cells EXPERIMENT/ARM@K HOW DIGITS   pass@K of the arm's committed cells, `each` seed or their `mean`
          ARM[key=value]                the arm at one point of the experiment's axes
          ARM:NAME                      an evaluation of the arm's models in place of the final one
          ARM=NAME                      a reference of the arm's first cell
    bench FILE PATH DIGITS              an entry of docs/benchmarks/FILE; PATH / PATH is a ratio, DIGITS with % a share

`make figures` writes them into the pages anew; a test compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from lamer.common.errors import BadInput
from lamer.deploy.experiments.results import CellResult, read_result
from lamer.deploy.run.folder import write_text

_QUOTE = re.compile(r"<!-- (cells|bench) (.+?) -->(.*?)<!-- end -->", re.DOTALL)
_CELLS = re.compile(
    r"(?P<experiment>[\w-]+)/(?P<arm>\w+)(\[(?P<at>[^\]]+)\])?(:(?P<evaluation>\w+)|=(?P<reference>[^@]+))?"
    r"@(?P<k>\d+) (?P<how>each|mean) (?P<digits>\d)"
)
_BENCH = re.compile(r"(?P<file>[\w.-]+\.json) (?P<path>[\w.]+)( / (?P<other>[\w.]+))? (?P<digits>\d)(?P<share>%?)")


def pages(root: Path) -> tuple[Path, ...]:
    """The pages of a checkout that quote figures."""
    return (root / "README.md", *sorted((root / "docs").glob("*.md")))


def requoted(text: str, docs: Path) -> str:
    """A page with every quoted figure as the files below `docs` have it.

    Raises:
        BadInput: a quote that can't be read, or names what is not there.
    """
    kinds: Mapping[str, Callable[[str, Path], str]] = {"cells": _cells, "bench": _bench}

    def quote(match: re.Match[str]) -> str:
        kind, asked, _ = match.groups()
        return f"<!-- {kind} {asked} -->{kinds[kind](asked, docs)}<!-- end -->"

    return _QUOTE.sub(quote, text)


def _cells(asked: str, docs: Path) -> str:
    match = _CELLS.fullmatch(asked)
    if match is None:
        raise BadInput(f"the quote {asked!r} is not EXPERIMENT/ARM@K HOW DIGITS")
    found = _results(docs / "results" / match["experiment"] / "cells", match["arm"], match["at"])
    if not found:
        raise BadInput(f"the quote {asked!r} names no committed cell")
    k, digits = int(match["k"]) - 1, int(match["digits"])
    if match["reference"]:
        return _number(found[0].references[match["reference"]][k], digits)
    shares = [_pass_at(each, match["evaluation"], asked)[k] for each in found]
    if match["how"] == "mean":
        shares = [sum(shares) / len(shares)]
    return " ".join(_number(share, digits) for share in shares)


def _results(folder: Path, arm: str, at: str | None) -> list[CellResult]:
    """The cells of an arm at a point of the axes, by seed."""
    point = dict(part.split("=", 1) for part in at.split(",")) if at else {}
    found = (read_result(path) for path in sorted(folder.glob("*.json")))
    of_arm = [each for each in found if each is not None and each.arm == arm]
    return sorted(
        (each for each in of_arm if {key: str(value) for key, value in each.at.items()} == point),
        key=lambda each: each.seed,
    )


def _pass_at(result: CellResult, evaluation: str | None, asked: str) -> tuple[float, ...]:
    if evaluation is None:
        measured = result.final
    else:
        record = result.evaluations.get(evaluation)
        measured = None if record is None else record.measurement
    if measured is None:
        raise BadInput(f"the quote {asked!r}: cell {result.cell} has no such evaluation")
    return measured.pass_at


def _bench(asked: str, docs: Path) -> str:
    match = _BENCH.fullmatch(asked)
    if match is None:
        raise BadInput(f"the quote {asked!r} is not FILE PATH DIGITS")
    try:
        tree = json.loads((docs / "benchmarks" / match["file"]).read_text(encoding="utf-8"))
        value = _entry(tree, match["path"])
        if match["other"]:
            value /= _entry(tree, match["other"])
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInput(f"the quote {asked!r} names nothing that is there: {error!r}") from error
    digits = int(match["digits"])
    return f"{100 * value:,.{digits}f}%" if match["share"] else f"{value:,.{digits}f}"


def _entry(tree: object, path: str) -> float:
    """A number in a JSON tree: "speedups.0.over_rl_lockstep"."""
    for part in path.split("."):
        if isinstance(tree, list):
            tree = tree[int(part)]
        elif isinstance(tree, dict):
            tree = tree[part]
        else:
            raise KeyError(part)
    if not isinstance(tree, (int, float)):
        raise TypeError(f"{path} is {tree!r}")
    return float(tree)


def _number(share: float, digits: int) -> str:
    """A share as pages write it: .20, 1.00."""
    return f"{share:.{digits}f}".removeprefix("0") or "0"


def main() -> int:
    """Write the figures of all pages of the checkout in the working folder anew."""
    root = Path.cwd()
    try:
        for page in pages(root):
            before = page.read_text(encoding="utf-8")
            after = requoted(before, root / "docs")
            if after != before:
                write_text(page, after)
                print(f"{page.relative_to(root)}: written anew")
    except (BadInput, OSError) as error:
        print(f"lamer: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
