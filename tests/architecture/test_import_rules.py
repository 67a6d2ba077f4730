"""Rules about imports, told from the sources and from what a fresh interpreter loads."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("actors", "common", "deploy", "envs", "learner")
MAY_IMPORT = {
    "common": {"common"},
    "envs": {"common", "envs"},
    "actors": {"common", "envs", "actors"},
    "learner": {"common", "learner"},
    "deploy": set(PACKAGES),
}
NEVER_IMPORTS = {
    "common": {"torch", "transformers", "aiohttp", "mlflow"},
    "envs": {"torch", "transformers", "aiohttp", "mlflow", "zmq"},
    "actors": {"torch", "transformers", "mlflow"},
    "learner": {"aiohttp"},
}
WITHOUT_TORCH = (
    "learner/credit/returns.py",
    "learner/credit/advantages.py",
    "learner/credit/gae.py",
    "learner/credit/samples.py",
    "learner/gateway/gateway.py",
)
ONLY_ZMQ = "common/transport.py"


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands and the module it names."""

    path: Path
    line: int
    module: str

    @property
    def top(self) -> str:
        """Our package without `lamer.`, or the foreign one."""
        return self.module.removeprefix("lamer.").partition(".")[0]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, those inside functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            assert node.module is not None
            if node.module == "lamer":
                yield from (Import(path, node.lineno, f"lamer.{alias.name}") for alias in node.names)
            else:
                yield Import(path, node.lineno, node.module)


def loaded_by(code: str) -> set[str]:
    """What a fresh interpreter holds after running `code`: our packages as lamer.X, others by their first name."""
    names = "{'.'.join(name.split('.')[: 2 if name.startswith('lamer.') else 1]) for name in sys.modules}"
    script = f"import sys\n{code}\nprint(*sorted({names}), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_the_ones_below_them(package: str) -> None:
    wrong = [
        str(each)
        for path in sources(package)
        for each in imports(path)
        if each.top in PACKAGES and each.top not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", NEVER_IMPORTS)
def test_packages_never_import_what_their_hosts_do_not_have(package: str) -> None:
    wrong = [str(each) for path in sources(package) for each in imports(path) if each.top in NEVER_IMPORTS[package]]
    assert wrong == []


def test_only_the_transport_imports_zmq() -> None:
    users = {
        str(each.path.relative_to(ROOT))
        for p in PACKAGES
        for f in sources(p)
        for each in imports(f)
        if each.top == "zmq"
    }
    assert users == {ONLY_ZMQ}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_the_algorithm_and_the_gateway_load_no_torch(name: str) -> None:
    module = "lamer." + name.removesuffix(".py").replace("/", ".")
    assert loaded_by(f"import {module}") & {"torch", "transformers"} == set()


def test_an_actor_loads_no_torch_and_no_learner() -> None:
    assert (
        loaded_by("import lamer.actors.worker") & {"torch", "transformers", "mlflow", "lamer.learner", "lamer.deploy"}
        == set()
    )


def test_help_loads_nothing_heavy() -> None:
    code = "from lamer.deploy.cli import app\ntry: app(['--help'], prog_name='lamer')\nexcept SystemExit: pass"
    heavy = {"torch", "transformers", "mlflow", "aiohttp", "numpy", "omegaconf", "zmq", "tokenizers", "matplotlib"}
    assert loaded_by(code) & heavy == set()


def test_no_other_distribution_claims_our_package_name() -> None:
    owners = importlib.metadata.packages_distributions().get("lamer", [])
    assert set(owners) <= {"lamer"}, f"the package lamer is also installed by {owners}: our imports may find theirs"


def test_everything_of_ours_is_imported_as_lamer() -> None:
    """A bare `import common` would load a second copy of each class."""
    files = [*(path for package in PACKAGES for path in sources(package)), *sorted((ROOT / "tests").rglob("*.py"))]
    bare = [str(each) for path in files for each in imports(path) if each.module.partition(".")[0] in PACKAGES]
    assert bare == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_linked_into_lamer_and_every_folder_of_modules_is_a_package(package: str) -> None:
    assert (ROOT / "src" / "lamer" / "py.typed").is_file()
    assert (ROOT / "src" / "lamer" / package).resolve() == ROOT / package
    folders = {path.parent for path in sources(package)}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
