"""Secrets in addresses, left out of whatever is shown, kept or sent: user and password, and values in a query.

masked         an address to be kept: what is secret in it is `***`, so that it is seen to be missing
is_masked      whether something is missing in an address
link           an address to be shown and followed: without what is secret
masked_within  any text, such as an error of a library's, with its addresses masked
"""

from __future__ import annotations

import re

MASK = "***"
_LOCAL = ("sqlite:///", "file:")
"""Files of this machine: `@`, `?` and `#` are part of their names."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
_USER_WITHOUT_SCHEME = re.compile(r"([^/\s]+:[^/\s]*|\*\*\*)@")
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


def _is_remote(address: str) -> bool:
    has_place = _SCHEME.match(address) or _USER_WITHOUT_SCHEME.match(address)
    return has_place is not None and not address.startswith(_LOCAL)


def _split(address: str) -> tuple[str, str, str]:
    """Scheme with its slashes, what names the place, and the rest from the first ? or # on."""
    found = _SCHEME.match(address)
    scheme = found[0] if found is not None else ""
    place = re.split(r"[?#]", address[len(scheme) :], maxsplit=1)[0]
    return scheme, place, address[len(scheme) + len(place) :]
