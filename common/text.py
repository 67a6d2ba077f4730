"""Text from outside, made valid: no character in it stands for a byte that is no text.

Python keeps such bytes as lone surrogates (`os.fsdecode`, `errors="surrogateescape"`, half of an emoji in JSON). They
can be neither encoded as UTF-8 nor tokenized, so whatever holds one would fail far from where it came in.
"""

from __future__ import annotations


def valid_text(text: str) -> str:
    """`text` as UTF-8 can hold it: both halves of a character joined, anything else that is no text as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def one_line(text: str, longest: int) -> str:
    """At most `longest` characters of `text` on one line: what controls a terminal or breaks a line comes out escaped,
    and what was cut is told by its number of characters.
    """
    shown = "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text[:longest])
    return shown if len(text) <= longest else f"{shown} ... and {len(text) - longest} more characters"


def describe_error(error: BaseException) -> str:
    """The type of an error and what it says, as valid text in one line's worth of words."""
    return valid_text(f"{type(error).__name__}: {error}")
