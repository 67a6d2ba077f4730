"""What the name `minesweeper` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from lamer.common.errors import BadInput
from lamer.envs.base import EnvFactory, Reference
from lamer.envs.minesweeper.env import MinesweeperEnv, RewardScheme
from lamer.envs.minesweeper.generator import draw_layout
from lamer.envs.minesweeper.parsing import LARGEST_NAMED
from lamer.envs.minesweeper.prompts import DenseStyle, FullStyle, MinesweeperCompactStyle, MinesweeperStyle
from lamer.envs.minesweeper.references import minesweeper_references


@dataclass(frozen=True, slots=True)
class MinesweeperConfig:
    """board: rows and columns. mines: at least two cells are safe. The defaults are the paper's.

    reward: `paper` pays 10 for a cleared board; `shaped` also pays each opening and charges those without effect, as
    the reference does; `even` pays 1 for a safe opening however much it opens, -1 for any other, 3 for the last one.
    prompt: the layout of prompts and answers (`envs.minesweeper.prompts`); `dense` for boards of up to 9 x 9.
    """

    board: Annotated[int, msgspec.Meta(ge=2, le=30)] = 6
    mines: Annotated[int, msgspec.Meta(ge=1)] = 3
    max_turns: Annotated[int, msgspec.Meta(ge=1)] = 7
    reward: RewardScheme = "paper"
    prompt: Literal["full", "compact", "dense"] = "full"

    def __post_init__(self) -> None:
        most = self.board**2 - 2
        if self.mines > most:
            raise BadInput(
                f"env.options.mines = {self.mines}: a board of {self.board} x {self.board} cells holds at most {most}"
            )
        if self.prompt == "dense" and self.board > LARGEST_NAMED:
            raise BadInput(
                f"env.options.prompt = 'dense': names cells of up to {LARGEST_NAMED} x {LARGEST_NAMED}, "
                f"env.options.board is {self.board}: use compact"
            )


class MinesweeperFactory(EnvFactory[MinesweeperConfig]):
    """Makes MineSweeper boards; only the size, the mines and the seed decide the board."""

    name = "minesweeper"
    config_class = MinesweeperConfig

    def make(self, config: MinesweeperConfig, seed: int) -> MinesweeperEnv:
        """The board of `seed`, with prompts and rewards as configured."""
        layout = draw_layout(config.board, config.mines, seed)
        return MinesweeperEnv(layout, _style(config), config.reward, config.max_turns)

    def references(self, config: MinesweeperConfig, episodes: int) -> tuple[Reference, ...]:
        """Random play and single-cell logic, each without and with memory of the mines that it hit."""
        return minesweeper_references(config.board, config.mines, config.max_turns, episodes)


def _style(config: MinesweeperConfig) -> MinesweeperStyle:
    match config.prompt:
        case "full":
            return FullStyle(config.board, config.mines)
        case "compact":
            return MinesweeperCompactStyle(config.mines)
        case "dense":
            return DenseStyle(config.board, config.mines)


FACTORY = MinesweeperFactory()
