"""Configuration: YAML files and `key=value` overrides, merged into the schema of `common.settings`, read once at entry.

    load      files (a path, or the name of a packaged one) -> base files first -> overrides -> checked `Settings`
    to_yaml   what a run folder keeps;  to_json / from_json   what travels in `Welcome`; both exact round trips
    to_shown_yaml   the first without any secret
    override  `key=value` that is read as a given text, whatever it looks like
    config_hash  identity of a run: everything except where and how long it runs;  parameters  flat pairs for MLflow

Unknown keys, wrong types and values out of range are refused with the full key (`common.schema`). The options of an
environment are checked by that environment (`envs.registry`), since `common` knows none.

Text stays what was typed (`common.plain_text`): `007` and `12e3` are names where a key holds text. In an option of an
environment, whose type is that environment's business, they are text where they are quoted. What leaves this module
holds no password of `tracking.uri`: it is masked (`common.masking`) in everything but `Settings`. Secrets among
`env.options` (by their names) are masked in what is shown and tracked, and stay in what actors and a resumption need.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import omegaconf
import yaml
from omegaconf import DictConfig, OmegaConf

from lamer.common import plain_text
from lamer.common.errors import Missing
from lamer.common.masking import masked, masked_values
from lamer.common.schema import ConfigError, OptionSources, Tree, check_keys, check_values, leaves, suggestion
from lamer.common.settings import Settings

PACKAGED = Path(__file__).resolve().parent.parent / "deploy" / "configs"
"""The configurations that come with lamer."""

BASE_KEY = "base"
NO_YAML = (yaml.YAMLError, omegaconf.errors.OmegaConfBaseException, ValueError, LookupError, AttributeError, TypeError)
"""What reading YAML raises: the last ones for a tag that its value does not suit, such as `!!int x`."""
_NO_INTERPOLATION = (omegaconf.errors.GrammarParseError, omegaconf.errors.InterpolationResolutionError)
NOT_IDENTITY = (
    "run.name",
    "run.directory",
    "tracking",
    "gateway",
    "actor",
    "inference",
    "batch.updates",
    "trainer.device",
    "trainer.auto_dtype",
    "trainer.compile",
    "trainer.recompute",
    "trainer.gpus",
    "trainer.collective_seconds",
    "trainer.threads",
    "trainer.keep_checkpoints",
    "trainer.watchdog_seconds",
)
"""Keys that may differ between a run and its resumption: where and with how many processes it runs, and how long.

Raising `batch.updates` on resume makes a run longer. What follows a schedule over the whole run (`loss.entropy` to
`loss.entropy_final`, `optimizer.schedule: linear`) is then that of the longer run from the resumption on: the
coefficient and the learning rate rise again at that point.
"""


ADDED_LATER = ("model.enable_thinking", "optimizer.kind")
"""Settings that 0.1 did not have: at their default they are left out of a run's identity, which stays what it was."""


_LEARNING = ("env", "trial", "credit", "advantage", "critic", "loss", "optimizer")


def load(files: Sequence[Path], overrides: Sequence[str] = (), *, reopens_auto: bool = False) -> Settings:
    """The configuration that `files` (later ones win) and `key=value` overrides (they win over files) describe.

    Args:
        files: YAML files. One that is not there is looked up by its name in `PACKAGED`, with or without `.yaml`.
        overrides: `batch.groups=8`, values in YAML's syntax.
        reopens_auto: a precision that a file names since lamer resolved it there is auto again; overrides name theirs.

    Raises:
        ConfigError: unknown key, wrong type, value out of range, contradiction between keys, or no YAML.
        Missing: a file is not there.
    """
    merged, options = OmegaConf.structured(Settings), OptionSources()
    for file in files:
        for path, tree in _read_with_bases(_find(file), ()):
            merged = _merge(merged, tree, path.name)
            options.add([tree], path.name)
    if reopens_auto and merged.trainer.auto_dtype:
        opened: Tree = {"trainer": {"dtype": "auto", "auto_dtype": False}}
        if merged.inference.dtype == merged.trainer.dtype:
            opened = {**opened, "inference": {"dtype": "auto"}}
        merged = _merge(merged, opened, "the run's file")
    typed = [_read_override(override) for override in overrides]
    for tree in typed:
        merged = _merge(merged, tree, "the command line")
    options.add(typed, "the command line")
    options.check(merged.env.name)
    return check_values(_to_settings(merged))


def to_yaml(settings: Settings) -> str:
    """Every key with its value, as `load` reads it."""
    return plain_text.dump(_plain(settings))


def to_shown_yaml(settings: Settings) -> str:
    """Every key with its value, secrets masked, for eyes and for tracking."""
    return plain_text.dump(_plain(_without_secret_options(settings)))


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
        if not isinstance(tree, dict):
            raise ConfigError(f"the configuration received is a JSON {type(tree).__name__}, not an object")
        received = {key: plain_text.literal(value) for key, value in tree.items()}
        merged = _merge(OmegaConf.structured(Settings), received, "the configuration received")
        return check_values(_to_settings(merged))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration received is no JSON, or nested too deeply: {error}") from error


def override(key: str, text: str) -> str:
    """`key=value` for a command line that is read as this text: quoted where the text alone would be something else."""
    plain = f"{key}={text}"
    try:
        value: object = _read_override(plain)
    except ConfigError:
        value = None
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return plain if value == text and "${" not in text else f"{key}={plain_text.quoted(text)}"


def config_hash(settings: Settings) -> str:
    """Sixteen hex digits of SHA-256 over what makes two runs the same experiment (all but `NOT_IDENTITY`)."""
    return hashlib.sha256(json.dumps(identity(settings)).encode()).hexdigest()[:16]


def identity(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The flat pairs that `config_hash` covers, secret options included; they go nowhere but into the hash."""
    defaults = dict(_flat(Settings()))
    return tuple(
        (key, value)
        for key, value in _flat(_as_asked(settings))
        if not _is_under(key, NOT_IDENTITY) and not (key in ADDED_LATER and value == defaults[key])
    )


def learning_hash(settings: Settings) -> str:
    """Hash of the settings that decide what an update does, section by section; 16 hex digits.

    Sizes of the machine and of the run are none of them. As in `identity`, what was added later counts only where it is
    set.
    """
    found = []
    for name in _LEARNING:
        values, defaults = (msgspec.to_builtins(getattr(one, name)) for one in (settings, Settings()))
        later = {key.removeprefix(f"{name}.") for key in ADDED_LATER if key.startswith(f"{name}.")}
        kept = {key: value for key, value in values.items() if key not in later or value != defaults[key]}
        found.append(kept)
    return hashlib.sha256(msgspec.json.encode(found, order="deterministic")).hexdigest()[:16]


def differing_keys(one: Settings, other: Settings) -> tuple[str, ...]:
    """Full keys, among those that `config_hash` covers, whose values differ."""
    left, right = dict(_flat(_as_asked(one))), dict(_flat(_as_asked(other)))
    keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return tuple(key for key in keys if not _is_under(key, NOT_IDENTITY))


def parameters(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Flat (full key, value as text) pairs in a stable order, without secrets; options of the environment by key."""
    return _flat(_without_secret_options(settings))


def _flat(settings: Settings) -> tuple[tuple[str, str], ...]:
    return tuple((leaf.key, _text(leaf.value)) for leaf in leaves(_without_secrets(settings)))


def _text(value: object) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _plain(settings: Settings) -> Tree:
    """Settings as plain nested mappings, enums as their values, without secrets."""

    def values(items: list[tuple[str, object]]) -> dict[str, object]:
        return {key: value.value if isinstance(value, enum.Enum) else value for key, value in items}

    return dataclasses.asdict(_without_secrets(settings), dict_factory=values)


def _as_asked(settings: Settings) -> Settings:
    """With the precision auto where lamer chose it: a run is the same whatever machine it was chosen on."""
    trainer = settings.trainer
    return (
        dataclasses.replace(settings, trainer=dataclasses.replace(trainer, dtype="auto"))
        if trainer.auto_dtype
        else settings
    )


def _without_secrets(settings: Settings) -> Settings:
    tracking = dataclasses.replace(settings.tracking, uri=masked(settings.tracking.uri))
    return dataclasses.replace(settings, tracking=tracking)


def _without_secret_options(settings: Settings) -> Settings:
    options = masked_values(settings.env.options)
    assert isinstance(options, dict)
    return dataclasses.replace(settings, env=dataclasses.replace(settings.env, options=options))


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
        tree = plain_text.read_yaml(path, Settings)
    except NO_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or _first_line(error)
        raise ConfigError(f"{path}{where} is no YAML: {problem}") from error
    except OSError as error:
        raise ConfigError(f"{path} can't be read as a configuration: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, not keys with values")
    return {str(key): value for key, value in tree.items()}


def _read_override(override: str) -> dict[str, object]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{override!r} is no override: write key=value, for example batch.groups=8")
    *sections, name = key.split(".")
    if _hint(key) is str:
        return _nested(sections, {name: plain_text.typed(value)})
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([override]), resolve=False)
        node = yaml.compose(value, Loader=yaml.SafeLoader)  # OmegaConf strips white space of every kind before it reads
    except NO_YAML as error:
        raise ConfigError(f"the value of {override!r} can't be read: {_first_line(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{override!r} is no override: write key=value, for example batch.groups=8")
    for place, text in plain_text.texts(node, _hint(key)):
        plain_text.put(tree, (*sections, name, *place), text)
    return {str(name): value for name, value in tree.items()}


def _hint(key: str) -> object:
    """The type of a key or section, None for what the schema does not have."""
    hint: object = Settings
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return hint


def _nested(sections: Sequence[str], tree: dict[str, object]) -> dict[str, object]:
    for section in reversed(sections):
        tree = {section: tree}
    return tree


def _merge(merged: DictConfig, tree: Tree, source: str) -> DictConfig:
    check_keys(tree, source)
    try:
        result = OmegaConf.merge(merged, OmegaConf.create(dict(tree)))
    except omegaconf.errors.OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or ""
        raise ConfigError(f"wrong value for {key} in {source}: {_first_line(error)}") from error
    return typing.cast("DictConfig", result)


def _to_settings(merged: DictConfig) -> Settings:
    try:
        settings = OmegaConf.to_object(merged)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise ConfigError(f"{getattr(error, 'full_key', '')}: {_first_line(error)}") from error
    return typing.cast("Settings", settings)


def _first_line(error: Exception) -> str:
    """The first line of a library's message; where an interpolation is what is wrong, how to write one that is none."""
    hint = r"; a ${ that is part of a text is written \${" if isinstance(error, _NO_INTERPOLATION) else ""
    return (str(error) or type(error).__name__).splitlines()[0] + hint
