"""Two scripted ways to play Sokoban, and the share of rooms that they solve within k attempts.

    solver        knows the room: solved in the first attempt if a shortest solution fits into an attempt's moves
    random walk   turns of random length with random moves, as the warm start plays

A generated room is solvable within an attempt by construction. For rooms of level files a search looks and gives a room
up after `SEARCHED` positions: its share is a lower bound, and it is named so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lamer.envs.base import Reference
from lamer.envs.seeding import task_rng
from lamer.envs.sokoban.generator import Layout
from lamer.envs.sokoban.room import Direction, is_solved, move
from lamer.envs.sokoban.solver import solve

SEARCHED = 5000


@dataclass(frozen=True, slots=True)
class Attempt:
    """How long an attempt at a room is: turns of 1..actions_per_turn moves, and moves in all of them together."""

    max_turns: int
    actions_per_turn: int
    max_moves: int

    @property
    def most_moves(self) -> int:
        """The moves that fit into an attempt."""
        return min(self.max_moves, self.max_turns * self.actions_per_turn)


def sokoban_references(layouts: Sequence[Layout], attempt: Attempt, episodes: int) -> tuple[Reference, ...]:
    """pass@1..episodes of the solver and of a random walk over rooms."""
    solvable = sum(solution_length(layout, attempt.most_moves) is not None for layout in layouts) / len(layouts)
    solver = "solver" if all(layout.solution for layout in layouts) else f"solver, {SEARCHED} positions a room"
    rng = task_rng("sokoban", "random walk")
    solved = [_walk_solves_at(layout, attempt, episodes, rng) for layout in layouts]
    walked = [sum(at <= k for at in solved) / len(layouts) for k in range(episodes)]
    return Reference(solver, (solvable,) * episodes), Reference("random walk", tuple(walked))


def solution_length(layout: Layout, most_moves: int) -> int | None:
    """Moves of a shortest solution of at most `most_moves`, None where there is none or the search gave up."""
    if layout.solution:
        return len(layout.solution) if len(layout.solution) <= most_moves else None
    path = solve(layout.room, layout.start, SEARCHED, most_moves).path
    return None if path is None else len(path)


def _walk_solves_at(layout: Layout, attempt: Attempt, episodes: int, rng: random.Random) -> int:
    """The first of `episodes` random walks that solves the room, `episodes` if none does."""
    walks = range(episodes)
    return next((walk for walk in walks if _walk_solves(layout, attempt, rng)), episodes)


def _walk_solves(layout: Layout, attempt: Attempt, rng: random.Random) -> bool:
    moves = sum(rng.randint(1, attempt.actions_per_turn) for _ in range(attempt.max_turns))
    position, directions = layout.start, tuple(Direction)
    for _ in range(min(moves, attempt.max_moves)):
        position = move(layout.room, position, rng.choice(directions))
        if is_solved(layout.room, position):
            return True
    return False
