"""The rules of the source tree: each is a function of a `SourceTree` that names what breaks it.

`docs/architecture.md` has them in words; `test_rules.py` asserts them, and plants a breach of each.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable

from tests.architecture.tree import PACKAGES, SourceTree, circles, foreign, is_in, room

Rule = Callable[[SourceTree], list[str]]
RULES: list[Rule] = []

_TORCH = {"torch", "transformers", "safetensors", "accelerate"}

_NEVER_IMPORTS = {
    "common": {*_TORCH, "aiohttp", "mlflow"},
    "envs": {*_TORCH, "aiohttp", "mlflow", "zmq"},
    "actors": {*_TORCH, "mlflow"},
    "learner": {"aiohttp"},
    "learner/gateway": _TORCH,
    "learner/journal": _TORCH,
    "learner/credit": _TORCH,
    "learner/measuring": _TORCH,
    "learner/memory": _TORCH,
}
"""Foreign packages that a folder does without: its hosts do not have them, or must not wait for them."""

_MAY_IMPORT = {
    "common": set(),
    "envs": {"common"},
    "actors": {"common", "envs"},
    "learner/journal": {"common"},
    "learner/credit": {"common"},
    "learner/measuring": {"common"},
    "learner/pocket": {"common"},
    "learner/memory": {"common"},
    "learner/fitness": {"common"},
    "learner/gateway": {"common", "learner/journal", "learner/measuring"},
    "learner/trainer": {"common", "learner/journal", "learner/credit", "learner/fitness", "learner/memory"},
    "deploy/play": {"common", "envs", "actors"},
    "deploy/models": {"common", "envs", "actors", "learner/pocket", "deploy/play"},
    "deploy/run": {"common", "envs", "actors", "learner", "deploy/play", "deploy/models"},
    "deploy/inference": {
        "common",
        "learner/fitness",
        "deploy/run/processes.py",
        "deploy/run/precision.py",
        "deploy/models/fitness.py",
    },
    "deploy/fitness": {"common", "learner/fitness", "learner/trainer", "deploy/inference"},
    "deploy/dry": {"common", "envs", "actors", "learner", "deploy/play", "deploy/models", "deploy/run"},
    "deploy/doctor": {"common", "envs", "deploy/inference"},
    "deploy/experiments": {"common", "envs", "learner/measuring", "deploy/run"},
    "deploy/bench": {
        "common",
        "envs",
        "actors",
        "learner",
        "deploy/models",
        "deploy/run",
        "deploy/dry",
        "deploy/inference",
    },
    "deploy/commands": set(PACKAGES),
    "deploy": {"common", "deploy/commands"},
}
"""What of ours each folder may import beside itself: folders or single modules. The longest folder of a module counts.
"""

_ENTRIES = {
    "common/config.py": "reads it",
    "common/schema.py": "checks it",
    "actors/worker.py": "the actor process",
    "learner/gateway/plan.py": "the gateway process",
    "learner/gateway/gateway.py": "the gateway process",
    "learner/trainer/trainer.py": "the trainer process",
    "learner/trainer/update.py": "the trainer without a process, as a replay starts it",
    "learner/trainer/following.py": "the trainer's other ranks, which rank 0 hands the configuration",
    "deploy/inference/joining.py": "the host agent's process",
    "learner/measuring/summary.py": "writes the configuration's hash",
    "learner/measuring/tracking.py": "logs all parameters",
}
"""Where `Settings` as a whole may be: everything below gets a section. `deploy` is where processes are started."""

_PYTHONPATH = {"deploy/bench/asynchronous.py"}  # the folder of its own scripted environment, for the actors
_IMPORTS_BY_NAME = {
    "envs/registry.py",
    "envs/workers/game.py",
    "envs/webshop/nouns.py",
    "deploy/doctor/datasets.py",
    "deploy/inference/engines/sglang_guard/start.py",
}
_SHARED_BY_COMMANDS = {"deploy/commands/options.py", "deploy/commands/__init__.py"}
_MOST_MODULES = 20
_MOST_LINES = 500


def rule(check: Rule) -> Rule:
    """Register a rule."""
    RULES.append(check)
    return check


@rule
def folders_import_only_what_lies_below_them(tree: SourceTree) -> list[str]:
    """Packages, the two processes of the learner, the folders of deploy: see `_MAY_IMPORT`."""
    wrong = []
    for each, target in tree.arrows:
        here = home(each.path)
        allowed = _MAY_IMPORT.get(here, set())
        if home(target) != here and not any(target == it or is_in(target, it) for it in allowed):
            wrong.append(str(each))
    return wrong


@rule
def a_folder_does_without_what_its_hosts_do_not_have(tree: SourceTree) -> list[str]:
    """See `_NEVER_IMPORTS`."""
    return [
        str(each)
        for folder, banned in _NEVER_IMPORTS.items()
        for each in tree.imports
        if is_in(each.path, folder) and foreign(each) in banned
    ]


@rule
def trainer_and_gateway_never_import_each_other(tree: SourceTree) -> list[str]:
    """Two processes; only the journal is read by both."""
    rooms = ("learner/gateway", "learner/trainer")
    return [
        str(each)
        for each, target in tree.arrows
        for ours, theirs in (rooms, rooms[::-1])
        if is_in(each.path, ours) and is_in(target, theirs)
    ]


@rule
def nobody_imports_a_command(tree: SourceTree) -> list[str]:
    """Commands call; only the command line's entry knows them, and all of them share their options."""
    return [
        str(each)
        for each, target in tree.arrows
        if is_in(target, "deploy/commands")
        and each.path != "deploy/cli.py"
        and not (is_in(each.path, "deploy/commands") and target in _SHARED_BY_COMMANDS)
    ]


@rule
def the_report_of_a_run_knows_no_benchmark(tree: SourceTree) -> list[str]:
    """What is printed after a run is `deploy/run`'s; a benchmark prints its own."""
    return [str(e) for e, target in tree.arrows if is_in(e.path, "deploy/run") and is_in(target, "deploy/bench")]


@rule
def a_dry_run_imports_nothing_above_it(tree: SourceTree) -> list[str]:
    """It is a pure look at a configuration: no commands, no servers, no benchmarks."""
    above = ("deploy/commands", "deploy/bench", "deploy/experiments", "deploy/inference", "deploy/cli.py")
    return [
        str(each)
        for each, target in tree.arrows
        if is_in(each.path, "deploy/dry") and (target in above or any(is_in(target, folder) for folder in above))
    ]


@rule
def only_the_transport_imports_zmq(tree: SourceTree) -> list[str]:
    """Sockets are one module's."""
    return [str(each) for each in tree.imports if foreign(each) == "zmq" and each.path != "common/transport.py"]


@rule
def everything_of_ours_is_imported_as_lamer(tree: SourceTree) -> list[str]:
    """A bare `import common` loads a second copy of each class, a relative import can't be searched for."""
    return [str(each) for each in tree.imports if foreign(each) in PACKAGES or each.module.startswith(".")]


@rule
def nothing_puts_a_folder_of_ours_on_the_path(tree: SourceTree) -> list[str]:
    """lamer is installed: no sys.path, no site folder, no PYTHONPATH, and no child that finds its working folder."""
    wrong = [
        str(each)
        for each in tree.imports
        if (each.module == "sys" and each.name == "path") or each.module == "site" or each.name == "site"
    ]
    for path, module in tree.sources.items():
        names = {"sys", *(alias for alias in _aliases_of_sys(module))}
        for node in ast.walk(module):
            is_path = isinstance(node, ast.Attribute) and node.attr == "path" and ast.unparse(node.value) in names
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if is_path or ("PYTHONPATH" in text and path not in _PYTHONPATH):
                wrong.append(f"{path}:{node.lineno} has {ast.unparse(node)}")
            if isinstance(node, ast.Tuple | ast.List) and _starts_a_child_unsafely(node):
                wrong.append(f"{path}:{node.lineno} starts `python -m` without -P")
    return wrong


@rule
def modules_are_imported_by_statements(tree: SourceTree) -> list[str]:
    """Else no rule sees it; environments, games and what may be missing are imported by name."""
    return [
        f"{path}:{node.lineno} calls {ast.unparse(node.func)}"
        for path, module in tree.sources.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
        and path not in _IMPORTS_BY_NAME
    ]


@rule
def settings_as_a_whole_stop_at_the_entries(tree: SourceTree) -> list[str]:
    """A part gets its own section of the configuration: see `_ENTRIES`."""
    wrong = [
        str(each)
        for each, target in tree.arrows
        if each.path not in _ENTRIES
        and not _assembles(each.path)
        and (
            (target == "common/settings.py" and each.name in ("Settings", "settings", ""))
            or (target == "common/config.py" and each.path not in ("common/config.py", "common/schema.py"))
        )
    ]
    for path, module in tree.sources.items():
        if path not in _ENTRIES and not _assembles(path):
            wrong += [f"{path}:{line} reads .settings" for line in _settings_read(module)]
    return wrong


@rule
def modules_do_not_import_each_other_in_a_circle(tree: SourceTree) -> list[str]:
    """Nor do folders, but for a folder and one inside it."""
    modules: dict[str, set[str]] = defaultdict(set)
    rooms: dict[str, set[str]] = defaultdict(set)
    for each, target in tree.arrows:
        if target != each.path:
            modules[each.path].add(target)
        here, there = room(each.path), room(target)
        if here != there and not is_in(here, there) and not is_in(there, here):
            rooms[here].add(there)
    return [" <-> ".join(circle) for circle in (*circles(modules), *circles(rooms))]


@rule
def folders_and_files_stay_small(tree: SourceTree) -> list[str]:
    """At most 20 modules a folder (commands excepted: one each) and 500 lines a module."""
    counts = Counter(room(path) for path in tree.sources)
    wrong = [
        f"{folder} has {count} modules"
        for folder, count in counts.items()
        if count > _MOST_MODULES and folder != "deploy/commands"
    ]
    for path, text in tree.texts.items():
        lines = text.count("\n")
        if lines > _MOST_LINES:
            wrong.append(f"{path} has {lines} lines")
    return wrong


@rule
def every_folder_of_modules_is_a_package_and_linked_into_lamer(tree: SourceTree) -> list[str]:
    """One import name, typed as a whole."""
    folders = {room(path) for path in tree.sources}
    wrong = [
        f"{folder} has no __init__.py" for folder in sorted(folders) if f"{folder}/__init__.py" not in tree.sources
    ]
    lamer = tree.root / "src" / "lamer"
    wrong += [
        f"src/lamer/{name} is not ../../{name}" for name in PACKAGES if (lamer / name).resolve() != tree.root / name
    ]
    return wrong if (lamer / "py.typed").is_file() else [*wrong, "src/lamer/py.typed is missing"]


def home(path: str) -> str:
    """The most specific of the folders with a rule that hold a module."""
    return max((folder for folder in _MAY_IMPORT if is_in(path, folder)), key=len, default="")


def _assembles(path: str) -> bool:
    """Whether a module belongs to what starts processes: `deploy`, but for the host agent and its engines."""
    return is_in(path, "deploy") and not is_in(path, "deploy/inference")


def _settings_read(module: ast.Module) -> list[int]:
    """Lines of `plan.settings`: the whole configuration, taken from something else."""
    return [node.lineno for node in ast.walk(module) if isinstance(node, ast.Attribute) and node.attr == "settings"]


def _aliases_of_sys(module: ast.Module) -> list[str]:
    """Other names that a module gives to `sys`."""
    imports = (node for node in ast.walk(module) if isinstance(node, ast.Import))
    return [alias.asname for node in imports for alias in node.names if alias.name == "sys" and alias.asname]


def _starts_a_child_unsafely(node: ast.Tuple | ast.List) -> bool:
    """Whether a command is `sys.executable, "-m", ...`: without -P its working folder would be on its path."""
    words = [ast.unparse(element) for element in node.elts[:2]]
    return words == ["sys.executable", "'-m'"]
