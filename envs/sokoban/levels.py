"""Rooms from a level file in Boxoban's format: a line "; number" before each level, # wall, @ player, $ box, . target.

A box on a target is "*" and the player on one is "+", as in other level collections.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from common.errors import BadInput, Missing
from envs.sokoban.generator import Layout
from envs.sokoban.room import Position, Room

_WALL, _PLAYER, _BOX, _TARGET = "#", "@+", "$*", ".*+"
_SYMBOLS = set(f" {_WALL}{_PLAYER}{_BOX}{_TARGET}")


@functools.lru_cache(maxsize=16)
def read_levels(path: str) -> tuple[Layout, ...]:
    """All levels of a file.

    Raises:
        Missing: there is no such file. BadInput: it holds no level, or one that can't be played.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Missing(f"env.options.levels = {path!r}: can't be read: {error.strerror}") from error
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(";"):
            blocks.append([])
        elif line.strip():
            if not blocks:
                raise BadInput(f"env.options.levels = {path!r}: the first level has no line '; 0' before it")
            blocks[-1].append(line)
    if not blocks:
        raise BadInput(f"env.options.levels = {path!r}: the file holds no level")
    return tuple(_parse_level(lines, f"{path!r}, level {index}") for index, lines in enumerate(blocks))


def _parse_level(lines: Sequence[str], where: str) -> Layout:
    widths = {len(line) for line in lines}
    unknown = set("".join(lines)) - _SYMBOLS
    if len(widths) != 1 or unknown:
        raise BadInput(
            f"env.options.levels = {where}: lines of lengths {sorted(widths)}, unknown symbols {unknown or ''}"
        )
    flat = "".join(lines)

    def cells(symbols: str) -> frozenset[int]:
        return frozenset(cell for cell, symbol in enumerate(flat) if symbol in symbols)

    players, boxes, targets = cells(_PLAYER), cells(_BOX), cells(_TARGET)
    if len(players) != 1 or len(boxes) != len(targets):
        raise BadInput(
            f"env.options.levels = {where}: needs one player and as many boxes as targets, "
            f"got {len(players)} players, {len(boxes)} boxes, {len(targets)} targets"
        )
    floor = frozenset(range(len(flat))) - cells(_WALL)
    try:
        room = Room(len(lines), widths.pop(), floor, targets)
    except ValueError as error:
        raise BadInput(f"env.options.levels = {where}: {error}") from error
    return Layout(room, Position(min(players), boxes), solution=())
