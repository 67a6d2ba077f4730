"""Rooms from level files in Boxoban's format: a line "; number" before each level, # wall, @ player, $ box, . target.

A box on a target is "*" and the player on one is "+", as in other level collections. Levels are a file, or a folder of
files (`*.txt`, in the order of their names), which may have a folder for each split, as Boxoban's `medium/train`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from lamer.common.errors import BadInput, Missing
from lamer.envs.sokoban.generator import Layout
from lamer.envs.sokoban.room import Position, Room

_KEY = "env.options.levels"
_WALL, _PLAYER, _BOX, _TARGET = "#", "@+", "$*", ".*+"
_SYMBOLS = set(f" {_WALL}{_PLAYER}{_BOX}{_TARGET}")


@dataclass(frozen=True, slots=True)
class _Level:
    """The lines of one level, from line `first` of its file."""

    file: Path
    first: int
    lines: tuple[str, ...]

    def where(self, line: int = 0) -> str:
        """How an error names a line of this level, counted from 0."""
        return f"{_KEY} = {str(self.file)!r}, line {self.first + line}"


@functools.lru_cache(maxsize=16)
def read_levels(path: str, split: str = "") -> tuple[Layout, ...]:
    """All levels of a file, of a folder's files, or of those in its folder `split`.

    Raises:
        Missing: there is no such file or folder. BadInput: it holds no level, or one that can't be played; the message
            names file and line.
    """
    levels = tuple(_parse(level) for file in _files(Path(path), split) for level in _levels_of(file))
    if not levels:
        raise BadInput(f"{_KEY} = {path!r}: holds no level")
    return levels


def _files(path: Path, split: str) -> list[Path]:
    if not path.is_dir():
        if split:
            raise BadInput(f"env.options.split = {split!r}: {_KEY} = {str(path)!r} is no folder of splits")
        return [path]
    folder = path / split
    found = sorted(folder.glob("*.txt")) if folder.parent in (path, path.parent) else []
    if not found:
        splits = sorted(inner.name for inner in path.iterdir() if any(inner.glob("*.txt")))
        known = f"; env.options.split can be {', '.join(splits)}" if splits else ""
        raise Missing(f"{_KEY} = {str(path)!r}: no level files (*.txt) in {str(folder)!r}{known}")
    return found


def _levels_of(file: Path) -> list[_Level]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")  # titles and comments of collections may be anything
    except OSError as error:
        raise Missing(f"{_KEY} = {str(file)!r} can't be read: {error.strerror}") from error
    if "\0" in text:
        raise Missing(f"{_KEY} = {str(file)!r} can't be read: it is no text")
    levels: list[_Level] = []
    is_begun = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(";"):
            is_begun = True
            levels.append(_Level(file, number + 1, ()))
        elif line.strip():
            if not is_begun:
                raise BadInput(f"{_KEY} = {str(file)!r}, line {number}: the first level has no line '; 0' before it")
            level = levels[-1]
            levels[-1] = _Level(file, level.first if level.lines else number, (*level.lines, line))
    return levels


def _parse(level: _Level) -> Layout:
    width = len(level.lines[0]) if level.lines else 0
    for index, line in enumerate(level.lines):
        unknown = sorted(set(line) - _SYMBOLS)
        if unknown:
            raise BadInput(
                f"{level.where(index)}: unknown symbols {' '.join(unknown)}, known are # @ + $ * . and space"
            )
        if len(line) != width:
            raise BadInput(f"{level.where(index)}: {len(line)} cells, the level's first line has {width}")
    flat = "".join(level.lines)

    def cells(symbols: str) -> frozenset[int]:
        return frozenset(cell for cell, symbol in enumerate(flat) if symbol in symbols)

    players, boxes, targets = cells(_PLAYER), cells(_BOX), cells(_TARGET)
    if len(players) != 1 or len(boxes) != len(targets):
        raise BadInput(
            f"{level.where()}: the level needs one player and as many boxes as targets, "
            f"it has {len(players)} players, {len(boxes)} boxes, {len(targets)} targets"
        )
    try:
        room = Room(len(level.lines), width, frozenset(range(len(flat))) - cells(_WALL), targets)
    except ValueError as error:
        raise BadInput(f"{level.where()}: {error}") from error
    return Layout(room, Position(min(players), boxes), solution=())
