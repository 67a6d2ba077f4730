"""Every module that a docstring, a comment or a page names is there, and holds what is said to be in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import CHECKOUT, PACKAGES, SourceTree

TREE = SourceTree()
REFERENCE = re.compile(rf"`(?:lamer\.)?((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(\w*\))?`")
FILE = re.compile(rf"`((?:{'|'.join(PACKAGES)}|docs|tests)/[a-z0-9_./-]+\.(?:py|md|yaml|json))`")
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
        tree = TREE.sources.get(f"{base}.py") or TREE.sources.get(f"{base}/__init__.py")
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
    """What a text names that does not exist."""
    modules = [reference for reference in REFERENCE.findall(text) if not is_there(reference)]
    return modules + [file for file in FILE.findall(text) if not (CHECKOUT / file).exists()]


def test_what_sources_name_is_there() -> None:
    found = {path: missing((TREE.root / path).read_text(encoding="utf-8")) for path in TREE.sources}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("page", [CHECKOUT / "README.md", *PAGES], ids=lambda page: page.name)
def test_what_pages_name_is_there(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8")) == []


def test_the_new_paths_in_the_changelog_are_there() -> None:
    new = re.findall(r"`(lamer\.[\w.]+)`", (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert len(new) > 20
    assert [name for name in new if not is_there(name.removeprefix("lamer.").removesuffix("."))] == ["lamer.X"]


def test_a_name_that_is_not_there_is_noticed() -> None:
    text = (
        "`envs.base.Env.reset`, `lamer.common.nowhere`, `envs.base.Env.reset_all`, `common.records`, `learner/gae.py`"
    )
    assert missing(text) == ["common.nowhere", "envs.base.Env.reset_all", "learner/gae.py"]
