"""What the name `minesweeper` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from common.errors import BadInput
from envs.base import EnvFactory
from envs.minesweeper.env import MinesweeperEnv, RewardScheme
from envs.minesweeper.generator import draw_layout
from envs.minesweeper.prompts import FullStyle, MinesweeperCompactStyle


@dataclass(frozen=True, slots=True)
class MinesweeperConfig:
    """board: rows and columns. mines: at least two cells are safe. The defaults are the paper's.

    reward: `paper` pays 10 for a cleared board; `shaped` also pays each opening and charges those without effect.
    """

    board: Annotated[int, msgspec.Meta(ge=2, le=30)] = 6
    mines: Annotated[int, msgspec.Meta(ge=1)] = 3
    max_turns: Annotated[int, msgspec.Meta(ge=1)] = 7
    reward: RewardScheme = "paper"
    prompt: Literal["full", "compact"] = "full"

    def __post_init__(self) -> None:
        most = self.board**2 - 2
        if self.mines > most:
            raise BadInput(
                f"env.options.mines = {self.mines}: a board of {self.board} x {self.board} cells holds at most {most}"
            )


class MinesweeperFactory(EnvFactory[MinesweeperConfig]):
    """Makes MineSweeper boards; only the size, the mines and the seed decide the board."""

    name = "minesweeper"
    config_class = MinesweeperConfig

    def make(self, config: MinesweeperConfig, seed: int) -> MinesweeperEnv:
        """The board of `seed`, with prompts and rewards as configured."""
        layout = draw_layout(config.board, config.mines, seed)
        is_compact = config.prompt == "compact"
        style = MinesweeperCompactStyle(config.mines) if is_compact else FullStyle(config.board, config.mines)
        return MinesweeperEnv(layout, style, config.reward, config.max_turns)


FACTORY = MinesweeperFactory()
