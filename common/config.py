"""Configuration: YAML files and `key=value` overrides, merged into the schema of `common.settings`, read once at entry.

    load      files (a path, or the name of a packaged one) -> base files first -> overrides -> checked `Settings`
    to_yaml   what a run folder keeps;  to_json / from_json   what travels in `Welcome`, an exact round trip
    config_hash  identity of a run: everything except where and how long it runs;  parameters  flat pairs for MLflow

Unknown keys, wrong types and values out of range are refused with the full key (`common.schema`). The options of an
environment are checked by that environment (`envs.registry`), since `common` knows none.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import omegaconf
import yaml
from omegaconf import DictConfig, OmegaConf

from lamer.common.errors import Missing
from lamer.common.schema import ConfigError, Tree, check_keys, check_values, leaves, suggestion
from lamer.common.settings import Settings

PACKAGED = Path(__file__).resolve().parent.parent / "deploy" / "configs"
"""The configurations that come with lamer."""

BASE_KEY = "base"
NOT_IDENTITY = (
    "run.name",
    "run.directory",
    "tracking",
    "gateway",
    "actor",
    "inference",
    "batch.updates",
    "trainer.device",
    "trainer.threads",
    "trainer.keep_checkpoints",
    "trainer.watchdog_seconds",
)
"""Keys that may differ between a run and its resumption: where and with how many processes it runs, and how long.

Raising `batch.updates` on resume makes a run longer. What follows a schedule over the whole run (`loss.entropy` to
`loss.entropy_final`, `optimizer.schedule: linear`) is then that of the longer run from the resumption on: the
coefficient and the learning rate rise again at that point.
"""


def load(files: Sequence[Path], overrides: Sequence[str] = ()) -> Settings:
    """The configuration that `files` (later ones win) and `key=value` overrides (they win over files) describe.

    Args:
        files: YAML files. One that is not there is looked up by its name in `PACKAGED`, with or without `.yaml`.
        overrides: `batch.groups=8`, values in YAML's syntax.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, contradiction between keys, or no YAML.
        Missing: a file is not there.
    """
    merged = OmegaConf.structured(Settings)
    for file in files:
        for path, tree in _read_with_bases(_find(file), ()):
            merged = _merge(merged, tree, path.name)
    for override in overrides:
        merged = _merge(merged, _read_override(override), "the command line")
    return check_values(_to_settings(merged))


def to_yaml(settings: Settings) -> str:
    """Every key with its value, as `load` reads it."""
    text: str = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True, width=120)
    return text


def to_json(settings: Settings) -> str:
    """Every key with its value, in the schema's order: equal settings give equal text."""
    return json.dumps(_plain(settings), allow_nan=False)


def from_json(text: str) -> Settings:
    """The settings that `to_json` wrote.

    Raises:
        ConfigError: no JSON object, an unknown key or a wrong value.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the configuration received is no JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the configuration received is a JSON {type(tree).__name__}, not an object")
    return check_values(_to_settings(_merge(OmegaConf.structured(Settings), tree, "the configuration received")))


def config_hash(settings: Settings) -> str:
    """Sixteen hex digits of SHA-256 over what makes two runs the same experiment (all but `NOT_IDENTITY`)."""
    return hashlib.sha256(json.dumps(identity(settings)).encode()).hexdigest()[:16]


def identity(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The `parameters` that `config_hash` covers."""
    return tuple((key, value) for key, value in parameters(settings) if not _is_under(key, NOT_IDENTITY))


def differing_keys(one: Settings, other: Settings) -> tuple[str, ...]:
    """Full keys, among those that `config_hash` covers, whose values differ."""
    left, right = dict(parameters(one)), dict(parameters(other))
    keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return tuple(key for key in keys if not _is_under(key, NOT_IDENTITY))


def parameters(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Flat (full key, value as text) pairs in a stable order. Options of the environment are sorted by key."""
    return tuple((leaf.key, _text(leaf.value)) for leaf in leaves(settings))


def _text(value: object) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _plain(settings: Settings) -> Tree:
    """Settings as plain nested mappings, enums as their values."""

    def values(items: list[tuple[str, object]]) -> dict[str, object]:
        return {key: value.value if isinstance(value, enum.Enum) else value for key, value in items}

    return dataclasses.asdict(settings, dict_factory=values)


def _is_under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _find(file: Path) -> Path:
    names: tuple[Path, ...] = (file,) if file.suffix else (file, file.with_suffix(".yaml"))
    for place in (*names, *(PACKAGED / name for name in names)):
        if place.is_file():
            return place
    known = sorted(str(path.relative_to(PACKAGED)) for path in PACKAGED.rglob("*.yaml"))
    raise Missing(f"no configuration file {file}{suggestion(str(file.with_suffix('.yaml')), known)}")


def _read_with_bases(path: Path, readers: tuple[Path, ...]) -> Iterator[tuple[Path, Tree]]:
    """A file's tree, preceded by those of the file or files that it names as its base, in that order."""
    resolved = path.resolve()
    if resolved in readers:
        raise ConfigError(f"{path.name} is its own base: {' -> '.join(reader.name for reader in (*readers, resolved))}")
    tree = _read_yaml(path)
    named = tree.pop(BASE_KEY, None)
    bases = named if isinstance(named, list) else [] if named is None else [named]
    for base in bases:
        if not isinstance(base, str):
            raise ConfigError(f"base in {path.name} must be a file's name, or a list of them, not {base!r}")
        beside = path.parent / base
        yield from _read_with_bases(beside if beside.is_file() else _find(Path(base)), (*readers, resolved))
    yield path, tree


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{where} is no YAML: {problem}") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read as a configuration: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, not keys with values")
    return {str(key): value for key, value in tree.items()}


def _read_override(override: str) -> dict[str, object]:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{override!r} is no override: write key=value, for example batch.groups=8")
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([override]), resolve=False)
    except (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        raise ConfigError(f"the value of {override!r} can't be read: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{override!r} is no override: write key=value, for example batch.groups=8")
    return {str(name): value for name, value in tree.items()}


def _merge(merged: DictConfig, tree: Tree, source: str) -> DictConfig:
    check_keys(tree, source)
    try:
        result = OmegaConf.merge(merged, OmegaConf.create(dict(tree)))
    except omegaconf.errors.OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        raise ConfigError(f"wrong value for {key} in {source}: {str(error).splitlines()[0]}") from error
    return typing.cast("DictConfig", result)


def _to_settings(merged: DictConfig) -> Settings:
    try:
        settings = OmegaConf.to_object(merged)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise ConfigError(f"{getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}") from error
    return typing.cast("Settings", settings)
