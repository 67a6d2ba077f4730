"""What the name `doors` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from lamer.envs.base import EnvFactory, Reference
from lamer.envs.doors.env import DoorsEnv
from lamer.envs.doors.prompts import DoorsCompactStyle, DoorsFullStyle
from lamer.envs.doors.references import doors_references


@dataclass(frozen=True, slots=True)
class DoorsConfig:
    """doors: K, from 2 to 99. prompt: the size of the prompts."""

    doors: Annotated[int, msgspec.Meta(ge=2, le=99)] = 5
    prompt: Literal["full", "compact"] = "compact"


class DoorsFactory(EnvFactory[DoorsConfig]):
    """Makes doors; consecutive seeds put the prize behind consecutive doors, so that a batch covers all positions."""

    name = "doors"
    config_class = DoorsConfig

    def make(self, config: DoorsConfig, seed: int) -> DoorsEnv:
        """Prize behind door seed % K + 1."""
        style = DoorsCompactStyle(config.doors) if config.prompt == "compact" else DoorsFullStyle(config.doors)
        return DoorsEnv(config.doors, seed % config.doors + 1, style)

    def references(self, config: DoorsConfig, episodes: int) -> tuple[Reference, ...]:
        """The best policy, possible doors at random, independent guesses: exact figures."""
        return doors_references(config.doors, episodes)


FACTORY = DoorsFactory()
