"""What all environments read from a response alike: the text between two tags, and the remark of a reflection.

Tags are matched exactly: `<ACTION>` or `< action >` is no tag.
"""

from __future__ import annotations

REMARK_CHARACTERS = 2000


def between_tags(response: str, tag: str) -> str | None:
    """The text from the first `<tag>` to the first `</tag>` after it, None when either is missing."""
    _, opening, rest = response.partition(f"<{tag}>")
    inside, closing, _ = rest.partition(f"</{tag}>")
    return inside if opening and closing else None


def parse_remark(response: str) -> str | None:
    """The remark of a reflection, stripped and cut to 2000 characters; None when there is no pair of tags."""
    remark = between_tags(response, "remark")
    return None if remark is None else remark.strip()[:REMARK_CHARACTERS]
