"""What a configuration tree must satisfy, told from the dataclasses of `common.settings`.

    check_keys     before the merge: unknown keys (and what was probably meant), sections, switches, choices
    check_values   after it: the ranges and choices that stand in a field's metadata, then what must hold between keys
    leaves         every value of the resolved configuration by its full key

    OptionSources  which environment the options of each merged file are meant for

Types are OmegaConf's business (`common.config`), the options of an environment that environment's.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lamer.common.errors import BadInput
from lamer.common.masking import masked_within
from lamer.common.settings import Settings

Tree = Mapping[str, object]

FREE_FORM = frozenset({"env.options"})


class ConfigError(BadInput):
    """A configuration that can't be used; the message names the full key and the value, passwords masked."""

    def __init__(self, message: str) -> None:
        """message: may hold what a user typed, addresses with passwords among it."""
        super().__init__(masked_within(message))


class ForeignOption(ConfigError):
    """An option that was set for another environment than the one that is played, whose name is `env`."""

    def __init__(self, message: str, env: str) -> None:
        """env: what env.name is; `common` doesn't know whether there is such an environment."""
        super().__init__(message)
        self.env = env


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of the resolved configuration by its full key, with the range its schema allows."""

    key: str
    value: object
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


class OptionSources:
    """Where each of `env.options` was set last, and for which environment, while files are merged one after another.

    A file means the environment that it names, or else the one that files before it name. Options that were set before
    any file named an environment are meant for whichever comes.
    """

    def __init__(self) -> None:
        self._env = ""
        self._sources: dict[str, tuple[str, str]] = {}

    def add(self, trees: Sequence[Tree], source: str) -> None:
        """Note what one source sets: a file's tree, or all overrides of a command line, whose order means nothing."""
        sections = [section for tree in trees if isinstance(section := tree.get("env"), Mapping)]
        for section in sections:
            self._env = str(section.get("name", self._env))
        for section in sections:
            options = section.get("options", {})
            self._sources |= dict.fromkeys(options if isinstance(options, Mapping) else (), (self._env, source))

    def check(self, env: str) -> None:
        """Refuse options that were set for another environment than `env`, the one that is played.

        Raises:
            ForeignOption: there is one, as where a file whose base trains on doors names an environment of its own.
        """
        for option, (meant, source) in self._sources.items():
            if meant not in ("", env):
                raise ForeignOption(
                    f"env.options.{option} in {source} is an option of {meant}, but env.name is {env}: the base of a "
                    "configuration for any environment is pocket.yaml (`base: pocket.yaml`)",
                    env,
                )


def check_keys(tree: Tree, source: str) -> None:
    """Refuse what OmegaConf would convert, or report without its key: unknown keys, no section, no switch, no choice.

    Args:
        source: where the tree was read, for the message.
    """
    _check_section(Settings, tree, "", source)


def _check_section(schema: type, tree: Tree, prefix: str, source: str) -> None:
    hints = typing.get_type_hints(schema)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in hints:
            known = [f"{prefix}{known}" for known in hints]
            raise ConfigError(f"unknown key {key} in {source}{suggestion(key, known, _all_keys(Settings, ''))}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} in {source} is a section with keys of its own, not {value!r}")
            _check_section(typing.cast("type", hint), {str(k): v for k, v in value.items()}, f"{key}.", source)
        else:
            _check_value(hint, value, key, source)


def _check_value(hint: object, value: object, key: str, source: str) -> None:
    """What OmegaConf would convert (3 to true, NONE to none) or take as it is (a number for a mapping)."""
    if hint is str and value is None:
        raise ConfigError(f"{key} in {source} is null, which is no text: write '' for none, 'null' for this word")
    if value == "???":
        raise ConfigError(f"{key} in {source} is ???, which stands for a missing value: set it")
    if hint is bool and not isinstance(value, bool):
        raise ConfigError(f"{key} in {source} must be true or false, not {value!r}")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [str(member.value) for member in hint]
        if value not in values:
            raise ConfigError(f"{key} in {source} is {value!r}; it must be one of {', '.join(values)}")
    if key in FREE_FORM and not (isinstance(value, Mapping) and all(isinstance(name, str) for name in value)):
        raise ConfigError(f"{key} in {source} must be names with values, not {value!r}")


def _all_keys(schema: type, prefix: str) -> list[str]:
    keys: list[str] = []
    for name, hint in typing.get_type_hints(schema).items():
        is_section = dataclasses.is_dataclass(hint)
        keys += _all_keys(typing.cast("type", hint), f"{prefix}{name}.") if is_section else [f"{prefix}{name}"]
    return keys


def suggestion(name: str, known: Sequence[str], others: Sequence[str] = ()) -> str:
    """': did you mean X?' for the closest of `known`, else for that of `others` whose last part is closest, else ''."""
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    by_last = {other.rpartition(".")[2]: other for other in reversed(others)}
    close = close or [by_last[match] for match in difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return f": did you mean {close[0]}?" if close else ""


def leaves(section: object, prefix: str = "") -> Iterator[Leaf]:
    """Every value of a section, depth first, in the schema's order."""
    for item in dataclasses.fields(typing.cast("Settings", section)):
        key, value = f"{prefix}{item.name}", getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{key}.")
        elif isinstance(value, dict):
            yield from (Leaf(f"{key}.{name}", value[name]) for name in sorted(value))
        else:
            limits = item.metadata
            yield Leaf(key, value, limits.get("low"), limits.get("high"), limits.get("choices", ()))


def check_values(settings: Settings) -> Settings:
    """Ranges and choices of every key, then what must hold between keys."""
    for leaf in leaves(settings):
        _check_leaf(leaf)
    for is_right, problem in _relations(settings):
        if not is_right:
            raise ConfigError(problem)
    return settings


def _check_leaf(leaf: Leaf) -> None:
    value = leaf.value
    if not str(value).isascii() and not _is_unicode(str(value)):
        raise ConfigError(f"{leaf.key} is {value!r}, which is no valid text: write it in UTF-8")
    if leaf.choices and value not in leaf.choices:
        choices = ", ".join(choice or "''" for choice in leaf.choices)
        raise ConfigError(f"{leaf.key} is {value!r}; it must be one of {choices}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(leaf, value)


def _check_number(leaf: Leaf, value: float) -> None:
    is_below = leaf.low is not None and not value >= leaf.low  # not >=, so that NaN is refused
    is_above = leaf.high is not None and not value <= leaf.high
    if is_below or is_above or not math.isfinite(value):
        limits = [] if math.isfinite(value) else ["finite"]
        limits += [f"at least {leaf.low:g}"] if leaf.low is not None else []
        limits += [f"at most {leaf.high:g}"] if leaf.high is not None else []
        raise ConfigError(f"{leaf.key} is {value}; it must be {' and '.join(limits)}")


def _is_unicode(text: str) -> bool:
    """Whether it can be written; bytes of a command line that are no UTF-8 stand in text as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _relations(settings: Settings) -> Iterator[tuple[bool, str]]:
    """(whether it holds, what to say if not) for every rule between keys."""
    pocket, gateway, inference = settings.model.pocket, settings.gateway, settings.inference
    yield (
        pocket.heads % pocket.kv_heads == 0,
        f"model.pocket.kv_heads ({pocket.kv_heads}) must divide model.pocket.heads ({pocket.heads})",
    )
    yield pocket.head_dim % 2 == 0, f"model.pocket.head_dim is {pocket.head_dim}; rotary positions need an even number"
    yield (
        bool(settings.model.path) or not settings.model.architecture,
        f"model.architecture={settings.model.architecture} needs model.path, the folder of that model",
    )
    yield (
        gateway.dead_after_seconds > gateway.heartbeat_seconds,
        f"gateway.dead_after_seconds ({gateway.dead_after_seconds}) must be above gateway.heartbeat_seconds "
        f"({gateway.heartbeat_seconds})",
    )
    yield (
        settings.optimizer.kind != "adamw_8bit" or settings.trainer.dtype != "float32",
        "optimizer.kind=adamw_8bit keeps bfloat16 weights: trainer.dtype must be bfloat16 or auto, not float32",
    )
    yield (
        inference.delivery not in ("gloo", "nccl") or inference.engine == "sglang" or inference.servers == 0,
        f"inference.delivery={inference.delivery} needs inference.engine=sglang, not {inference.engine}, which takes "
        "weights by path or stream",
    )
