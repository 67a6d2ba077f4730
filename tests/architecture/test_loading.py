"""What a fresh interpreter loads: the static rules see imports of ours, these see those of the libraries too."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.architecture.tree import SourceTree, is_in, loaded_by

HEAVY = {"torch", "transformers"}


@pytest.mark.parametrize("folder", ["learner/gateway", "learner/journal", "learner/credit", "learner/measuring"])
def test_a_room_without_torch_loads_none(folder: str) -> None:
    modules = [path.removesuffix(".py").replace("/", ".") for path in SourceTree().sources if is_in(path, folder)]
    code = "\n".join(f"import lamer.{module.removesuffix('.__init__')}" for module in modules)
    assert loaded_by(code) & HEAVY == set()


def test_what_is_loaded_in_the_end_is_noticed() -> None:
    """Else the tests here could not fail."""
    assert "torch" in loaded_by("import lamer.learner.trainer.loss")
    assert "lamer.learner" in loaded_by("import lamer.actors.worker, lamer.learner.credit.gae")
    assert "numpy" in loaded_by("from lamer.deploy.cli import app\nimport numpy")


def test_an_actor_loads_no_torch_and_no_learner() -> None:
    loaded = loaded_by("import lamer.actors.worker")
    assert loaded & {*HEAVY, "mlflow", "lamer.learner", "lamer.deploy"} == set()


def test_help_loads_nothing_heavy() -> None:
    code = "from lamer.deploy.cli import app\ntry: app(['--help'], prog_name='lamer')\nexcept SystemExit: pass"
    heavy = {*HEAVY, "mlflow", "aiohttp", "numpy", "omegaconf", "zmq", "tokenizers", "matplotlib"}
    assert loaded_by(code) & heavy == set()


def test_no_other_distribution_claims_our_package_name() -> None:
    owners = importlib.metadata.packages_distributions().get("lamer", [])
    assert set(owners) <= {"lamer"}, f"the package lamer is also installed by {owners}: our imports may find theirs"
