"""Text in YAML and on a command line, kept as it was typed: neither a number, nor a date, nor an interpolation.

dump       a tree as YAML in which every text is read back as that text
read_yaml  a file as OmegaConf reads it, but for the keys that are text by their type: `texts`
typed      the same for the value of `key=value` on a command line;  quoted  its inverse
literal    text that OmegaConf takes as it is, whatever `${` stands in it
"""

from __future__ import annotations

import dataclasses
import io
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from omegaconf import OmegaConf

Place = tuple[str | int, ...]
"""Keys and positions from a tree's root to one of its values."""

_LIKE_A_NUMBER = tuple("+-.0123456789")
_TEXT = "tag:yaml.org,2002:str"
_SCALARS = frozenset({_TEXT, *(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "timestamp"))})
_MERGE = "tag:yaml.org,2002:merge"
_BEFORE_INTERPOLATION = re.compile(r"(\\*)\$\{")


def dump(tree: Mapping[str, object]) -> str:
    """A tree as YAML. Text that begins like a number is quoted, since readers of YAML differ in what a number is."""
    text: str = yaml.dump(literal(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def literal(value: object) -> object:
    r"""A text, or the texts of a tree, for OmegaConf to take as they are: `${x}` is written `\${x}`."""
    if isinstance(value, str):
        return _BEFORE_INTERPOLATION.sub(lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list | tuple) else value


def typed(value: str) -> str:
    """A text setting's value on a command line: as it was typed, or what stands in YAML's quotes around all of it."""
    if value.lstrip().startswith(("'", '"')):
        try:
            node = yaml.compose(value, Loader=yaml.SafeLoader)
        except yaml.YAMLError:  # the quote is part of the text
            return value
        if isinstance(node, yaml.ScalarNode) and node.style is not None:
            return str(node.value)
    return value


def quoted(text: str) -> str:
    """A text as a command line's value that reads back as this text, whatever its key."""
    node = yaml.ScalarNode(_TEXT, literal(text), style='"')
    return str(yaml.serialize(node, Dumper=yaml.SafeDumper, width=float("inf"))).rstrip("\n")


def texts(node: yaml.Node | None, schema: object) -> Iterator[tuple[Place, str]]:
    """What was typed for every value that is text by its type, with its place; later ones win over earlier ones.

    Args:
        node: the root of a YAML document, as `yaml.compose` gives it.
        schema: the root's type: a class with annotated fields, whose fields may be such classes, or lists of them.
    """
    if isinstance(node, yaml.ScalarNode):
        if schema is str and node.tag in _SCALARS:
            yield (), node.value
    elif isinstance(node, yaml.SequenceNode) and typing.get_origin(schema) in (list, tuple):
        for index, item in enumerate(node.value):
            for place, text in texts(item, typing.get_args(schema)[0]):
                yield (index, *place), text
    elif isinstance(node, yaml.MappingNode) and _has_fields(schema):
        for merged in _merged(node):
            yield from texts(merged, schema)
        hints = typing.get_type_hints(schema)
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in hints:
                for place, text in texts(value, hints[key.value]):
                    yield (key.value, *place), text


def read_yaml(path: Path, schema: object) -> object:
    """A YAML file as a tree, interpolations unresolved; what is text by its type (`schema`) as it was typed.

    Raises:
        OSError: it can't be read. UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException: it is no YAML.
    """
    document = path.read_text(encoding="utf-8")
    tree = OmegaConf.to_container(OmegaConf.load(io.StringIO(document)), resolve=False)
    for place, text in texts(yaml.compose(document, Loader=yaml.SafeLoader), schema):
        put(tree, place, text)
    return tree


def put(tree: object, place: Place, text: str) -> None:
    """Put a text in its place in a tree of dicts and lists; nothing where the tree has no such place."""
    *way, last = place
    at: typing.Any = tree
    for step in way:
        at = at[step]
    at[last] = text


def _has_fields(schema: object) -> bool:
    return dataclasses.is_dataclass(schema) or hasattr(schema, "__struct_fields__")


def _merged(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    """What `<<` takes in; of several the first wins, so it comes last."""
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from reversed(value.value) if isinstance(value, yaml.SequenceNode) else (value,)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml is not type-checked
    """Writes text so that it is read back as text."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    has_breaks = bool(text) and text.splitlines() != [text]
    style = '"' if has_breaks else "'" if text.startswith(_LIKE_A_NUMBER) else None
    return dumper.represent_scalar(_TEXT, text, style=style)


_Dumper.add_representer(str, _represent)
