"""What the name `doors` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from envs.base import EnvFactory, Reference
from envs.doors.env import DoorsEnv
from envs.doors.references import doors_references


@dataclass(frozen=True, slots=True)
class DoorsConfig:
    """doors: K, from 2 to 99."""

    doors: Annotated[int, msgspec.Meta(ge=2, le=99)] = 5


class DoorsFactory(EnvFactory[DoorsConfig]):
    """Makes doors; consecutive seeds put the prize behind consecutive doors, so that a batch covers all positions."""

    name = "doors"
    config_class = DoorsConfig

    def make(self, config: DoorsConfig, seed: int) -> DoorsEnv:
        """Prize behind door seed % K + 1."""
        return DoorsEnv(config.doors, prize=seed % config.doors + 1)

    def references(self, config: DoorsConfig, episodes: int) -> tuple[Reference, ...]:
        """The best policy, possible doors at random, independent guesses: exact figures."""
        return doors_references(config.doors, episodes)


FACTORY = DoorsFactory()
