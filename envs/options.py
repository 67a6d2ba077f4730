"""An environment's options as its configuration dataclass, and back as canonical JSON.

The type of a dataclass field says what the option may be, in the terms of msgspec: `Annotated[int, msgspec.Meta(ge=2)]`
for a range, `Literal["full", "compact"]` for a choice. What involves several options at once is checked by the
dataclass's own `__post_init__`, which raises `BadInput`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from lamer.common.errors import BadInput

ConfigT = TypeVar("ConfigT")


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the closest known one, or all of them."""
    candidates = sorted(known)
    close = difflib.get_close_matches(name, candidates, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(candidates) or 'none'}"


def decode(config_class: type[ConfigT], options: Mapping[str, object]) -> ConfigT:
    """A configuration with `options` in place of its defaults.

    Raises:
        BadInput: an unknown option, a value of the wrong type or out of its range, with the key `env.options.X`.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    known = {field.name for field in dataclasses.fields(_as_dataclass(config_class))}
    values: dict[str, object] = {}
    for name, value in options.items():
        if name not in known:
            raise BadInput(f"env.options.{name}: no such option, {suggest(name, known)}")
        try:
            values[name] = msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise BadInput(f"env.options.{name} = {value!r}: {error}") from error
    return config_class(**values)


def canonical_json(config: object) -> str:
    """Every option with its value as JSON with sorted keys and no spaces: equal configurations give equal text."""
    return json.dumps(msgspec.to_builtins(config), sort_keys=True, separators=(",", ":"))


def _as_dataclass(config_class: type[Any]) -> type[Any]:
    if not dataclasses.is_dataclass(config_class):
        raise BadInput(f"the configuration class {config_class.__name__} of an environment must be a dataclass")
    return config_class
