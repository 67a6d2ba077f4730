"""Which command a response names, and what the goal is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lamer.envs.parsing import between_tags

_SPACE = re.compile(r"\s+")
_ON_A_THING = re.compile(r"(go to|open|close|examine|use) (.+)")
_FROM_A_PLACE = re.compile(r"take (.+) (from .+)")
_GOAL = re.compile(r"Your task is to: (.*?)\.?\s*$", re.DOTALL)


def parse_command(response: str, commands: Sequence[str]) -> str | None:
    """The admissible command between the first pair of action tags, None when there is none.

    Case, outer quotes and the amount of white space don't matter.
    """
    inside = between_tags(response, "action")
    if inside is None:
        return None
    command = _SPACE.sub(" ", inside).strip().strip("'\"").strip().lower()
    return command if command in commands else None


def parse_number(response: str, commands: Sequence[str]) -> str | None:
    """The command whose number, counted from 1, stands between the first pair of action tags, None for other text."""
    inside = (between_tags(response, "action") or "").strip()
    if not (inside.isascii() and inside.isdecimal() and len(inside) < 4):
        return None
    return commands[int(inside) - 1] if 1 <= int(inside) <= len(commands) else None


def split_command(command: str) -> tuple[str, str]:
    """What a command does and to what: ("take from desk 1", "mug 1"); ("", command) where it is of another form."""
    if match := _ON_A_THING.fullmatch(command):
        return match[1], match[2]
    if match := _FROM_A_PLACE.fullmatch(command):
        return f"take {match[2]}", match[1]
    return "", command


def goal_of(initial: str) -> str:
    """The goal that the first observation states: "put a mug in desk"; all of it where it states none."""
    match = _GOAL.search(initial)
    return match[1] if match else initial
