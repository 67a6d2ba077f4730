"""Which moves a response names."""

from __future__ import annotations

from typing import Literal

from lamer.envs.sokoban.room import Direction

Move = Direction | Literal["still"]

STILL: Literal["still"] = "still"
MOVES: tuple[Move, ...] = (*Direction, STILL)


def parse_moves(response: str, most: int) -> tuple[Move, ...]:
    """The first `most` moves between the first `<action>` and the last `</action>`, () when there is none.

    The text is lower-cased and split at commas. A part counts as the first of up, down, left, right, still that occurs
    anywhere in it; a part with none of them is left out.
    """
    _, opening, rest = response.partition("<action>")
    inside, closing, _ = rest.rpartition("</action>")
    if not (opening and closing):
        return ()
    parts = (_parse_part(part) for part in inside.lower().split(","))
    return tuple(move for move in parts if move is not None)[:most]


def render_moves(moves: tuple[Move, ...]) -> str:
    """Moves as memory shows them: "up, left"."""
    return ", ".join(moves)


def _parse_part(part: str) -> Move | None:
    return next((move for move in MOVES if move in part), None)
