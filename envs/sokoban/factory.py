"""What the name `sokoban` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from lamer.common.errors import BadInput
from lamer.common.records import EVALUATION_SEED
from lamer.envs.base import EnvFactory, Reference
from lamer.envs.sokoban.env import RewardScheme, SokobanEnv, SokobanRules
from lamer.envs.sokoban.generator import Layout, RoomLimits, draw_layout
from lamer.envs.sokoban.levels import read_levels
from lamer.envs.sokoban.prompts import FullStyle, SokobanCompactStyle
from lamer.envs.sokoban.references import Attempt, sokoban_references

_CELLS_PER_BOX = 5
_MOST_BOXES = 5
_REFERENCE_ROOMS = 400
_REFERENCE_LEVELS = 40


@dataclass(frozen=True, slots=True)
class SokobanConfig:
    """The defaults are the paper's sizes.

    rows, cols: with the wall around. max_moves: moves an episode at most, standing still not counted.
    boxes: at most one for five cells within the wall, and five; level files may have more.
    min_solution, max_solution: moves of the shortest solution; the longest of `max_rooms` rooms where none fits.
    end_on_deadlock: an episode also ends when no solution is left; searched for after every push, slow in large rooms.
    reward: `paper` pays 10 for a solved room; `shaped` also charges moves and pays boxes.
    levels: a level file in Boxoban's format, or a folder of them; seed s plays level s modulo their number, and the
    options that shape generated rooms (rows to max_rooms) don't apply. Training and evaluation draw from the same
    levels, unless their splits differ.
    split: the folder within `levels` that is played (Boxoban's train, valid, test).
    """

    rows: Annotated[int, msgspec.Meta(ge=5, le=20)] = 6
    cols: Annotated[int, msgspec.Meta(ge=5, le=20)] = 6
    boxes: Annotated[int, msgspec.Meta(ge=1)] = 2
    min_solution: Annotated[int, msgspec.Meta(ge=1)] = 5
    max_solution: Annotated[int, msgspec.Meta(ge=1)] = 21
    max_rooms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    levels: str = ""
    split: str = ""
    max_turns: Annotated[int, msgspec.Meta(ge=1)] = 7
    actions_per_turn: Annotated[int, msgspec.Meta(ge=1)] = 3
    max_moves: Annotated[int, msgspec.Meta(ge=1)] = 30
    end_on_deadlock: bool = False
    reward: RewardScheme = "paper"
    prompt: Literal["full", "compact"] = "full"

    def __post_init__(self) -> None:
        if self.levels:
            read_levels(self.levels, self.split)
            return
        if self.split:
            raise BadInput(f"env.options.split = {self.split!r}: only env.options.levels has splits")
        most_boxes = min((self.rows - 2) * (self.cols - 2) // _CELLS_PER_BOX, _MOST_BOXES)
        if self.boxes > most_boxes:
            raise BadInput(
                f"env.options.boxes = {self.boxes}: a room of {self.rows} x {self.cols} takes at most {most_boxes}"
            )
        if self.min_solution > self.max_solution:
            raise BadInput(
                f"env.options.min_solution = {self.min_solution}: more than max_solution = {self.max_solution}"
            )
        most_moves = min(self.max_moves, self.max_turns * self.actions_per_turn)
        if self.max_solution > most_moves:
            raise BadInput(
                f"env.options.max_solution = {self.max_solution}: an episode has only {most_moves} moves, "
                f"the least of max_moves = {self.max_moves} and "
                f"max_turns * actions_per_turn = {self.max_turns * self.actions_per_turn}"
            )


class SokobanFactory(EnvFactory[SokobanConfig]):
    """Makes rooms; only the size, the boxes, the solution's limits and the seed decide a generated room."""

    name = "sokoban"
    config_class = SokobanConfig

    def make(self, config: SokobanConfig, seed: int) -> SokobanEnv:
        """The room of `seed`, with prompts and rewards as configured."""
        actions = config.actions_per_turn
        style = SokobanCompactStyle(actions) if config.prompt == "compact" else FullStyle(actions)
        rules = SokobanRules(
            config.max_turns, actions, config.max_moves, config.reward, end_on_deadlock=config.end_on_deadlock
        )
        return SokobanEnv(layout_of(config, seed), style, rules)

    def references(self, config: SokobanConfig, episodes: int) -> tuple[Reference, ...]:
        """A solver and a random walk, over the first rooms of an evaluation."""
        attempt = Attempt(config.max_turns, config.actions_per_turn, config.max_moves)
        return sokoban_references(_evaluation_rooms(config), attempt, episodes)


def layout_of(config: SokobanConfig, seed: int) -> Layout:
    """The room that `seed` stands for: generated, or from the level file."""
    if config.levels:
        levels = read_levels(config.levels, config.split)
        return levels[seed % len(levels)]
    limits = RoomLimits(
        config.rows, config.cols, config.boxes, config.min_solution, config.max_solution, config.max_rooms
    )
    return draw_layout(limits, seed)


def _evaluation_rooms(config: SokobanConfig) -> list[Layout]:
    """The first rooms of an evaluation, as many as are drawn, or searched for a solution, in a second or two."""
    count = _REFERENCE_LEVELS
    if not config.levels:
        count = max(_REFERENCE_ROOMS * 36**3 // max(config.rows * config.cols, 36) ** 3, 20)
    return [layout_of(config, EVALUATION_SEED + index) for index in range(count)]


FACTORY = SokobanFactory()
