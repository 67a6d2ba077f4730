"""What the name `alfworld` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from lamer.common.errors import BadInput, Missing
from lamer.envs.alfworld.env import AlfworldEnv
from lamer.envs.alfworld.games import IN_DISTRIBUTION, Split, TaskType, find_games, require_engine
from lamer.envs.alfworld.houses import House
from lamer.envs.alfworld.prompts import AlfworldCompactStyle, FullStyle
from lamer.envs.alfworld.references import planner_reference
from lamer.envs.base import EnvFactory, Reference


@dataclass(frozen=True, slots=True)
class AlfworldConfig:
    """data: the dataset's folder, "" for the common place (`envs.data`).

    split: the games that are played: `train`, or rooms of training with other tasks (`valid_seen`), or rooms that
    training does not have (`valid_unseen`). tasks: the task types; the paper trains on pick, look, clean and heat and
    holds out cool and pick_two. Seed s plays game s modulo their number, in an order that mixes types and rooms.
    max_turns: commands an episode. prompt: the layout of prompts and answers (`envs.alfworld.prompts`).
    """

    data: str = ""
    split: Split = "train"
    tasks: tuple[TaskType, ...] = IN_DISTRIBUTION
    max_turns: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    prompt: Literal["full", "compact"] = "full"

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise BadInput(f"env.options.tasks = {list(self.tasks)}: name at least one task type, and each once")


class AlfworldFactory(EnvFactory[AlfworldConfig]):
    """Makes houses. An environment loads nothing before its first episode, and its engine lives in a worker process."""

    name = "alfworld"
    config_class = AlfworldConfig

    def check_data(self, config: AlfworldConfig) -> None:
        """Check that the engine is installed and that there are games to play.

        Raises:
            Missing: they are not; the message says what to run.
        """
        require_engine()
        find_games(config.data, config.split, config.tasks)

    def make(self, config: AlfworldConfig, seed: int) -> AlfworldEnv:
        """The game of `seed`.

        Raises:
            Missing: there is no engine or no game.
        """
        require_engine()
        games = find_games(config.data, config.split, config.tasks)
        style = AlfworldCompactStyle() if config.prompt == "compact" else FullStyle()
        return AlfworldEnv(House(games[seed % len(games)]), style, config.max_turns)

    def references(self, config: AlfworldConfig, episodes: int) -> tuple[Reference, ...]:
        """The planner, where the games are here and it has solved them (`dataset.compile_dataset`)."""
        try:
            require_engine()
            games = find_games(config.data, config.split, config.tasks)
        except Missing:
            return ()
        return planner_reference(games, config.max_turns, episodes)


FACTORY = AlfworldFactory()
