"""Secrets, left out of whatever is shown, kept or sent: an address's user, password and query, and options so named.

masked         an address to be kept: what is secret in it is `***`, so that it is seen to be missing
is_masked      whether something is missing in an address
link           an address to be shown and followed: without what is secret
masked_within  any text, such as an error of a library's, with its addresses masked
masked_values  options by name: those that a name such as `api_key` gives away, and addresses in the others
masked_json    the same of an object's text
masked_word    a word of a command line, `key=value` with a key that gives it away included
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

MASK = "***"
_LOCAL = ("sqlite:///", "file:")
"""Files of this machine: `@`, `?` and `#` are part of their names."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
_USER_WITHOUT_SCHEME = re.compile(r"([^/\s]+:[^/\s]*|\*\*\*)@")
_SECRET_NAMES = frozenset(
    ("key", "apikey", "token", "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials")
)
_WORD_IN_NAME = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def masked(address: str) -> str:
    """The address with `***` for its user and password, for each value in its query, and for its fragment.

    A password may hold a `/` or an `@` that should have been written as %2F or %40: all up to the last @ is masked.
    """
    if not _is_remote(address):
        return address
    scheme, place, tail = _split(address)
    if "@" in tail:  # a password with a ? or #, or a token with an @: nobody can tell
        return f"{scheme}{MASK}"
    _, at, place = place.rpartition("@")
    query, fragment_mark, _ = tail.partition("#")
    pairs = (pair.partition("=") for pair in query.removeprefix("?").split("&"))
    shown = "&".join(f"{name}={MASK}" if equals else MASK for name, equals, _ in pairs)
    user = f"{MASK}@" if at else ""
    return f"{scheme}{user}{place}{f'?{shown}' if query else ''}{f'#{MASK}' if fragment_mark else ''}"


def is_masked(address: str) -> bool:
    """Whether this is an address in which `masked` left something out."""
    return MASK in address and _is_remote(address) and masked(address) == address


def link(address: str) -> str:
    """The address without user, password, query and fragment."""
    if not _is_remote(address):
        return address
    scheme, place, tail = _split(address)
    return scheme + (MASK if "@" in tail else place.rpartition("@")[2])


def masked_within(text: str) -> str:
    """A text with every address in it masked."""
    return _ADDRESS.sub(lambda match: masked(match[0]), text)


def is_secret_name(name: str) -> bool:
    """Whether text under this name is secret: a word of it says so, as in `api_key`, `authToken`, `db-password`."""
    return any(word.lower() in _SECRET_NAMES for word in _WORD_IN_NAME.findall(name))


def masked_values(value: object, name: str = "") -> object:
    """What JSON holds (mappings, lists, text, numbers), with `***` for every text under a secret name.

    name: that of `value` itself.
    """
    if isinstance(value, Mapping):
        return {key: masked_values(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked_values(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return MASK if value and is_secret_name(name) else masked_within(value)


def masked_json(text: str) -> str:
    """A JSON object as text, with what `masked_values` masks; one without secrets as it is."""
    values = json.loads(text)
    shown = masked_values(values)
    return text if shown == values else json.dumps(shown, sort_keys=True, separators=(",", ":"))


def masked_word(word: str) -> str:
    """A word of a command line, without secrets."""
    name, equals, value = word.partition("=")
    is_secret = equals and value and name.startswith("env.options.") and is_secret_name(name)
    return f"{name}={MASK}" if is_secret else masked_within(word)


def _is_remote(address: str) -> bool:
    has_place = _SCHEME.match(address) or _USER_WITHOUT_SCHEME.match(address)
    return has_place is not None and not address.startswith(_LOCAL)


def _split(address: str) -> tuple[str, str, str]:
    """Scheme with its slashes, what names the place, and the rest from the first ? or # on."""
    found = _SCHEME.match(address)
    scheme = found[0] if found is not None else ""
    place = re.split(r"[?#]", address[len(scheme) :], maxsplit=1)[0]
    return scheme, place, address[len(scheme) + len(place) :]
