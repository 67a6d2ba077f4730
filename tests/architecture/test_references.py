"""Every module that a docstring, a comment or a page names is there, and holds what is said to be in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.house import CHECKOUT, PACKAGES, House

HOUSE = House()
REFERENCE = re.compile(rf"`(?:lamer\.)?((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(\w*\))?`")
PAGES = sorted(path for path in (CHECKOUT / "docs").glob("*.md") if path.name != "log.md")


def names(tree: ast.AST) -> Iterator[str]:
    """What a module or a class defines: classes, functions, variables, fields."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)


def is_there(reference: str) -> bool:
    """Whether a dotted name is a package, a module, or something that a module or one of its classes defines."""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        base = "/".join(parts[:length])
        tree = HOUSE.sources.get(f"{base}.py") or HOUSE.sources.get(f"{base}/__init__.py")
        if tree is not None:
            return holds(tree, parts[length:])
    return False


def holds(tree: ast.AST, inner: list[str]) -> bool:
    """Whether a tree defines `inner`, one within the other."""
    if not inner:
        return True
    if inner[0] not in set(names(tree)):
        return False
    classes = [node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.ClassDef) and node.name == inner[0]]
    return len(inner) == 1 or any(holds(node, inner[1:]) for node in classes)


def missing(text: str) -> list[str]:
    return [reference for reference in REFERENCE.findall(text) if not is_there(reference)]


def test_what_sources_name_is_there() -> None:
    found = {path: missing((HOUSE.root / path).read_text(encoding="utf-8")) for path in HOUSE.sources}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("page", [CHECKOUT / "README.md", *PAGES], ids=lambda page: page.name)
def test_what_pages_name_is_there(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


def test_a_name_that_is_not_there_is_noticed() -> None:
    text = "`envs.base.Env.reset`, `lamer.common.nowhere`, `envs.base.Env.reset_all` and `common.records`"
    assert missing(text) == ["common.nowhere", "envs.base.Env.reset_all"]
