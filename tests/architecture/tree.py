"""The source tree as the architecture tests read it: modules, what they import, and the folders that they lie in."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "common", "deploy", "envs", "learner")
STAND_INS = "deploy/inference/sglang_cpu/stand_ins"
"""Sources that are copied into SGLang's environment, and never imported as ours."""


@dataclass(frozen=True)
class Import:
    """One imported module: `module` in full, `name` what is taken from it ("" for all of it)."""

    path: str
    line: int
    module: str
    name: str = ""

    def __str__(self) -> str:
        taken = f" {self.name} of" if self.name else ""
        return f"{self.path}:{self.line} imports{taken} {self.module}"


@dataclass(frozen=True)
class SourceTree:
    """A checkout. added: lines at the end of modules, or modules, by which a test breaks a rule."""

    root: Path = CHECKOUT
    added: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def texts(self) -> Mapping[str, str]:
        """The text of every module of the packages, by its path from the root."""
        found = {}
        for package in PACKAGES:
            for path in sorted((self.root / package).rglob("*.py")):
                name = path.relative_to(self.root).as_posix()
                if not name.startswith(STAND_INS):
                    found[name] = path.read_text(encoding="utf-8")
        for name, lines in self.added.items():
            found[name] = f"{found.get(name, '')}\n{lines}\n"
        return found

    @functools.cached_property
    def sources(self) -> Mapping[str, ast.Module]:
        """Every module's syntax tree."""
        return {name: parsed(text) for name, text in self.texts.items()}

    @functools.cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of the packages, those inside functions and TYPE_CHECKING blocks included."""
        return tuple(each for path, tree in self.sources.items() for each in imports_of(path, tree))

    def own(self, each: Import) -> str | None:
        """The path of the module of ours that an import reaches, None for a foreign one."""
        if each.module != "lamer" and not each.module.startswith("lamer."):
            return None
        base = each.module.removeprefix("lamer").removeprefix(".").replace(".", "/")
        inner = f"{base}/{each.name}".strip("/")
        for path in (f"{inner}.py", f"{inner}/__init__.py", f"{base}.py", f"{base}/__init__.py"):
            if path in self.sources:
                return path
        return None

    @functools.cached_property
    def arrows(self) -> tuple[tuple[Import, str], ...]:
        """Every import of a module of ours, with that module's path."""
        reached = ((each, self.own(each)) for each in self.imports)
        return tuple((each, target) for each, target in reached if target is not None)


@functools.cache
def parsed(source: str) -> ast.Module:
    """A module's syntax tree; trees share those of equal modules."""
    return ast.parse(source)


def imports_of(path: str, tree: ast.Module) -> Iterator[Import]:
    """The imports of one module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(path, node.lineno, module, alias.name) for alias in node.names)


def room(path: str) -> str:
    """The folder that a module lies in."""
    return PurePosixPath(path).parent.as_posix()


def is_in(path: str, folder: str) -> bool:
    """Whether a module lies in a folder or below it."""
    return path.startswith(f"{folder}/")


def foreign(each: Import) -> str:
    """The package that an import names first."""
    return each.module.partition(".")[0]


def loaded_by(code: str) -> set[str]:
    """What a fresh interpreter holds after running `code`: our packages as lamer.X, others by their first name."""
    names = "{'.'.join(name.split('.')[: 2 if name.startswith('lamer.') else 1]) for name in sys.modules}"
    script = f"import sys\n{code}\nprint(*sorted({names}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected sets of more than one node (Tarjan 1972), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found
