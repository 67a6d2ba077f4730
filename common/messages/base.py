"""What all messages have in common."""

from __future__ import annotations

from lamer.common.records import Record


class Message(Record, frozen=True, tag_field="type", tag=True):
    """Base of all messages; the tag on the wire is the class name."""
