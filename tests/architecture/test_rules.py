"""The rules of the source tree hold, and each of them notices a breach."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.tree import CHECKOUT, PACKAGES, SourceTree, foreign, imports_of, parsed

TREE = SourceTree()


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_holds(rule: rules.Rule) -> None:
    assert rule(TREE) == []


def test_tests_import_ours_as_lamer_too() -> None:
    """The finder of conftest.py refuses a bare import as it is run; this finds those that no test runs."""
    files = sorted((CHECKOUT / "tests").rglob("*.py"))
    imports = [each for path in files for each in imports_of(str(path), parsed(path.read_text(encoding="utf-8")))]
    assert [str(each) for each in imports if foreign(each) in PACKAGES] == []
    with pytest.raises(ModuleNotFoundError, match=r"import lamer\.common"):
        __import__("common")


BREACHES: list[tuple[rules.Rule, str, str]] = [
    (rules.folders_import_only_what_lies_below_them, "common/errors.py", "import lamer.envs.base"),
    (rules.folders_import_only_what_lies_below_them, "envs/base.py", "from lamer.actors import policy"),
    (rules.folders_import_only_what_lies_below_them, "actors/trial.py", "from lamer.learner.credit import gae"),
    (rules.folders_import_only_what_lies_below_them, "learner/credit/gae.py", "import lamer.learner.journal.reader"),
    (rules.folders_import_only_what_lies_below_them, "learner/measuring/plots.py", "import lamer.learner.gateway.plan"),
    (rules.folders_import_only_what_lies_below_them, "deploy/play/scripted.py", "import lamer.deploy.run.folder"),
    (rules.folders_import_only_what_lies_below_them, "deploy/inference/host.py", "import lamer.deploy.run.folder"),
    (rules.folders_import_only_what_lies_below_them, "actors/trial.py", "import lamer.learner"),
    (rules.folders_import_only_what_lies_below_them, "deploy/cli.py", "import lamer.deploy.run.folder"),
    (rules.a_folder_does_without_what_its_hosts_do_not_have, "learner/gateway/pool.py", "def f():\n    import torch"),
    (rules.a_folder_does_without_what_its_hosts_do_not_have, "learner/trainer/loss.py", "import aiohttp"),
    (rules.trainer_and_gateway_never_import_each_other, "learner/trainer/loss.py", "import lamer.learner.gateway.pool"),
    (rules.trainer_and_gateway_never_import_each_other, "learner/gateway/pool.py", "import lamer.learner.trainer.loss"),
    (rules.nobody_imports_a_command, "deploy/commands/play.py", "from lamer.deploy.commands import train"),
    (rules.nobody_imports_a_command, "deploy/run/local.py", "from lamer.deploy.commands import options"),
    (rules.the_report_of_a_run_knows_no_benchmark, "deploy/run/report.py", "import lamer.deploy.bench.engine"),
    (rules.a_dry_run_imports_nothing_above_it, "deploy/dry/run.py", "import lamer.deploy.inference.engines.client"),
    (rules.only_the_transport_imports_zmq, "learner/gateway/peers.py", "import zmq.asyncio"),
    (rules.everything_of_ours_is_imported_as_lamer, "actors/trial.py", "import common.records"),
    (rules.everything_of_ours_is_imported_as_lamer, "actors/trial.py", "from . import episode"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "envs/registry.py", "import sys\nsys.path.insert(0, '.')"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "envs/registry.py", "from sys import path"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "envs/registry.py", "import sys as s\ns.path.append('.')"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "envs/registry.py", "import site"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "deploy/cli.py", "C = (sys.executable, '-m', 'lamer.x')"),
    (rules.nothing_puts_a_folder_of_ours_on_the_path, "envs/workers/worker.py", "E = {'PYTHONPATH': '.'}"),
    (rules.settings_as_a_whole_stop_at_the_entries, "actors/trial.py", "from lamer.common.settings import Settings"),
    (rules.settings_as_a_whole_stop_at_the_entries, "actors/trial.py", "from lamer.common import settings"),
    (rules.settings_as_a_whole_stop_at_the_entries, "learner/gateway/pool.py", "settings = plan.settings"),
    (rules.settings_as_a_whole_stop_at_the_entries, "learner/gateway/pool.py", "from lamer.common import config"),
    (rules.settings_as_a_whole_stop_at_the_entries, "deploy/inference/host.py", "import lamer.common.config"),
    (rules.modules_are_imported_by_statements, "learner/gateway/pool.py", "x = __import__('torch')"),
    (rules.modules_are_imported_by_statements, "common/errors.py", "x = importlib.import_module('lamer.envs.base')"),
    (rules.modules_do_not_import_each_other_in_a_circle, "envs/memory.py", "from lamer.envs import history"),
    (rules.modules_do_not_import_each_other_in_a_circle, "deploy/play/scripted.py", "import lamer.deploy.run.local"),
    (rules.folders_and_files_stay_small, "common/errors.py", "# padding\n" * 500),
    (rules.every_folder_of_modules_is_a_package_and_linked_into_lamer, "envs/chess/game.py", "pass"),
]
"""A rule, a module, and the lines that are added to it (or that it is made of)."""


@pytest.mark.parametrize(("rule", "path", "lines"), BREACHES)
def test_a_rule_notices_a_breach(rule: rules.Rule, path: str, lines: str) -> None:
    assert rule(SourceTree(added={path: lines})) != []


def test_too_many_modules_in_a_folder_and_a_lost_link_are_noticed(tmp_path: Path) -> None:
    extra = {f"learner/credit/extra_{number}.py": "" for number in range(20)}
    assert rules.folders_and_files_stay_small(SourceTree(added=extra)) == ["learner/credit has 25 modules"]
    for name in (*PACKAGES, "src"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "lamer" / "envs").unlink()
    lost = rules.every_folder_of_modules_is_a_package_and_linked_into_lamer(SourceTree(tmp_path))
    assert lost == ["src/lamer/envs is not ../../envs"]


def test_every_rule_has_a_breach() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(rules.RULES)
