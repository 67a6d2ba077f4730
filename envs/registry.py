"""Environments by name: the built-in ones, and those that installed packages register.

A package adds an environment with an entry point in the group `lamer.envs`, whose name is the environment's and whose
value is an `EnvFactory` instance (`"maze" = "my_package.maze:FACTORY"`). Nothing is imported before it is asked for, so
that importing this module stays cheap.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import re
import traceback
from collections.abc import Mapping
from typing import Any

from lamer.common.errors import BadInput, Missing
from lamer.common.records import Task
from lamer.envs import options as env_options
from lamer.envs.base import Env, EnvFactory, EnvironmentFault, Reference

ENTRY_POINT_GROUP = "lamer.envs"

_BUILT_IN = {
    "alfworld": "lamer.envs.alfworld.factory:FACTORY",
    "doors": "lamer.envs.doors.factory:FACTORY",
    "minesweeper": "lamer.envs.minesweeper.factory:FACTORY",
    "sokoban": "lamer.envs.sokoban.factory:FACTORY",
    "webshop": "lamer.envs.webshop.factory:FACTORY",
}

_OLD_IMPORT = re.compile(r"(?:from|import) ((?:actors|common|deploy|envs|learner)(?:\.\w+)*)(?!\w)")
"""An import statement as it was written for 0.1."""

_EXTRAS = frozenset({"webshop"})
"""Environments that need packages which lamer itself doesn't: the extra of that name brings them."""


def names() -> tuple[str, ...]:
    """The names of all environments, sorted, whether or not they can be imported."""
    return tuple(sorted(_BUILT_IN.keys() | _installed().keys()))


def get(name: str) -> EnvFactory[Any]:
    """What `name` stands for.

    Raises:
        BadInput: no environment has this name, or what is registered under it is not an `EnvFactory`.
        Missing: its package can't be imported.
    """
    target = _BUILT_IN.get(name) or installed_target(name)
    module_name, _, attribute = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        hint = f" (pip install 'lamer[{name}]')" if name in _EXTRAS else _new_path(error)
        raise Missing(f"env.name: environment {name!r} ({target}) can't be imported: {error}{hint}") from error
    if not isinstance(factory, EnvFactory):
        raise BadInput(f"env.name: environment {name!r} ({target}) must be an EnvFactory instance, got {factory!r}")
    return factory


def decode_config(name: str, options: Mapping[str, object]) -> object:
    """The frozen configuration dataclass of environment `name` with `options` in place of its defaults.

    Raises:
        BadInput: an unknown option or a value that can't be used, with the full key `env.options.X`.
    """
    return env_options.decode(get(name).config_class, options)


def canonical_config(name: str, options: Mapping[str, object]) -> str:
    """`options` with all defaults filled in as canonical JSON: `Task.env_config`."""
    return env_options.canonical_json(decode_config(name, options))


def make_env(task: Task) -> Env:
    """The environment of one task: the same initial state for the same task, in every process.

    Raises:
        EnvironmentFault: what is registered under this name made something else.
    """
    made: object = get(task.env).make(_decode_json(task.env, task.env_config), task.seed)
    if not isinstance(made, Env):
        raise EnvironmentFault(f"what make of environment {task.env!r} returned is a {type(made).__name__}, not an Env")
    return made


def check_data(env: str, env_config: str) -> None:
    """Refuse the canonical configuration `env_config` where the data that it needs is not on this machine.

    Raises:
        Missing: it is not; the message says which command brings it.
    """
    get(env).check_data(_decode_json(env, env_config))


def references(env: str, env_config: str, episodes: int) -> tuple[Reference, ...]:
    """Exact or scripted figures for `env` with the canonical configuration `env_config`: pass@1..episodes each."""
    return get(env).references(_decode_json(env, env_config), episodes)


@functools.lru_cache(maxsize=64)
def _decode_json(name: str, env_config: str) -> object:
    try:
        options = json.loads(env_config)
    except json.JSONDecodeError as error:
        raise BadInput(f"the configuration of environment {name!r} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise BadInput(f"the configuration of environment {name!r} must be a JSON object, got {env_config!r}")
    return decode_config(name, options)


def _new_path(error: ImportError | AttributeError) -> str:
    """What to do about an import of our packages by the names that they had in 0.1, "" for any other error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        old = _OLD_IMPORT.match(frame.line or "")
        if old is not None and isinstance(error, ImportError):
            return f" (since lamer 0.2 {old[1]} is imported as lamer.{old[1]}: see its CHANGELOG.md)"
    return ""


@functools.cache
def installed_target(name: str) -> str:
    """What the entry point of another package's environment names, as "module:attribute".

    Finding it reads the metadata of every installed package, 20 ms and more, and every trial asks: once a process.

    Raises:
        BadInput: no environment has this name; asked again, it is looked for again.
    """
    target = _installed().get(name)
    if target is None:
        raise BadInput(f"env.name: no environment is called {name!r}, {env_options.suggest(name, names())}")
    return target


def _installed() -> dict[str, str]:
    """Name -> "module:attribute" of the entry points of other packages."""
    found: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        other = found.get(point.name) or _BUILT_IN.get(point.name)
        if other is not None and other != point.value:
            raise BadInput(f"two environments are called {point.name!r}: {other} and {point.value}")
        found[point.name] = point.value
    return found
