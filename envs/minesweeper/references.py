"""Scripted ways to play MineSweeper, and how many boards they clear within k attempts.

    random                     any closed cell
    random, remembers mines    any closed cell except mines that an earlier attempt at this board hit
    single-cell logic          a cell that a number proves safe, else any closed one that none proves a mine
    logic, remembers mines     single-cell logic that knows the mines that earlier attempts hit

They see what a player sees, and play the rules of `field` over the first boards of an evaluation.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lamer.common.records import EVALUATION_SEED
from lamer.envs.base import Reference
from lamer.envs.minesweeper.field import Cell, Minefield, Opening, neighbours_of
from lamer.envs.minesweeper.generator import Layout, draw_layout
from lamer.envs.seeding import task_rng

MOST_BOARDS = 1000
LEAST_BOARDS = 50
_WORK = MOST_BOARDS * 6**4


@dataclass(frozen=True, slots=True)
class Player:
    """How a scripted player chooses. reasons: by single-cell logic. remembers: the mines that earlier attempts hit."""

    name: str
    reasons: bool
    remembers: bool

    def choose(self, field: Minefield, known_mines: frozenset[Cell], rng: random.Random) -> Cell:
        """The closed cell to open next."""
        safe: Collection[Cell] = ()
        mines: Collection[Cell] = known_mines
        if self.reasons:
            safe, mines = deduce(field.size, field.numbers, known_mines)
        closed = field.hidden
        return rng.choice([c for c in closed if c in safe] or [c for c in closed if c not in mines])


PLAYERS = (
    Player("random", reasons=False, remembers=False),
    Player("random, remembers mines", reasons=False, remembers=True),
    Player("single-cell logic", reasons=True, remembers=False),
    Player("logic, remembers mines", reasons=True, remembers=True),
)


def deduce(size: int, numbers: Mapping[Cell, int], known_mines: frozenset[Cell]) -> tuple[set[Cell], set[Cell]]:
    """(safe, mines): closed cells that single numbers prove safe, and all that are known to be mines.

    A number whose mines are all known proves its other closed neighbours safe; one with as many closed neighbours left
    as mines missing proves them mines. Repeated until nothing follows any more.
    """
    neighbours = neighbours_of(size)
    safe: set[Cell] = set()
    mines = set(known_mines)
    pending = [(number, closed) for cell, number in numbers.items() if (closed := neighbours[cell] - numbers.keys())]
    is_new = True
    while is_new:
        is_new, undecided = False, []
        for number, closed in pending:
            missing, unknown = number - len(closed & mines), closed - mines - safe
            if missing and missing < len(unknown):
                undecided.append((number, closed))
            elif unknown:
                (mines if missing else safe).update(unknown)
                is_new = True
        pending = undecided
    return safe, mines


def solved_at(player: Player, layout: Layout, max_turns: int, episodes: int, rng: random.Random) -> int | None:
    """The attempt, from 0, in which a player clears a board; None when it doesn't within `episodes`."""
    hit: frozenset[Cell] = frozenset()
    for episode in range(episodes):
        field = layout.lay()
        for _ in range(max_turns):
            cell = player.choose(field, hit, rng)
            opening = field.open(cell)
            if opening is Opening.CLEARED:
                return episode
            if opening is Opening.MINE:
                hit = hit | {cell} if player.remembers else hit
                break
    return None


@functools.lru_cache(maxsize=64)
def minesweeper_references(
    size: int, mines: int, max_turns: int, episodes: int, boards: int = 0
) -> tuple[Reference, ...]:
    """pass@1..episodes of every scripted player over boards of `size` x `size` cells.

    boards: 0 for as many as take a second or so, 1000 up to 6 x 6 cells (standard error at most .016), then fewer.
    """
    count = boards or max(min(MOST_BOARDS, _WORK // size**4), LEAST_BOARDS)
    layouts = [draw_layout(size, mines, EVALUATION_SEED + index) for index in range(count)]
    return tuple(_reference(player, layouts, max_turns, episodes) for player in PLAYERS)


def _reference(player: Player, layouts: list[Layout], max_turns: int, episodes: int) -> Reference:
    rng = task_rng("minesweeper", player.name)
    found = [solved_at(player, layout, max_turns, episodes, rng) for layout in layouts]
    counts = [sum(at is not None and at <= k for at in found) for k in range(episodes)]
    return Reference(player.name, tuple(count / len(layouts) for count in counts))
