"""What the name `webshop` stands for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lamer.common.errors import BadInput
from lamer.common.records import EVALUATION_SEED
from lamer.envs.base import EnvFactory, Reference
from lamer.envs.data import dataset_folder
from lamer.envs.webshop.catalogue import DATASET, CatalogueSize, check_files
from lamer.envs.webshop.compact import WebshopCompactStyle
from lamer.envs.webshop.env import RewardScheme, ShoppingRules, WebshopEnv
from lamer.envs.webshop.goals import Goal, GoalKind
from lamer.envs.webshop.nouns import NounSource, has_spacy, nouns_by
from lamer.envs.webshop.oracle import shopping_references
from lamer.envs.webshop.prompts import FullStyle
from lamer.envs.webshop.shop import load_shop, load_split

_REFERENCE_GOALS = 100


@dataclass(frozen=True, slots=True)
class WebshopConfig:
    """The defaults are the paper's.

    data: the folder of WebShop's files, "" for the common place (`envs.data`). catalogue: its 1,000 products or all.
    goals: made from the catalogue, or written by people. evaluation_goals: the first so many are never trained on.
    split: train or evaluation, whatever the seed; "": evaluation tasks are evaluation goals, all others training goals.
    nouns: what finds the nouns of titles (`envs.webshop.nouns`); auto becomes spacy where that is installed, else
    rules, when the configuration is read, so that all processes of a run score alike.
    reward: `paper` pays 10 for a purchase with the score 1; `score` pays 10 times the score of any purchase.
    show_score: the page after a purchase says what it scored.
    original: keep what the original does and this environment does not: options that it can't compare, training goals
    that are evaluation goals too, searches from any page, no options in anchor states (`docs/environments.md`).
    """

    data: str = ""
    catalogue: CatalogueSize = "small"
    goals: GoalKind = "synthetic"
    evaluation_goals: Annotated[int, msgspec.Meta(ge=1)] = 500
    split: Literal["", "train", "evaluation"] = ""
    nouns: Literal["auto", "spacy", "rules"] = "auto"
    max_turns: Annotated[int, msgspec.Meta(ge=1)] = 12
    reward: RewardScheme = "paper"
    prompt: Literal["full", "compact"] = "full"
    show_score: bool = False
    original: bool = False

    def __post_init__(self) -> None:
        if self.nouns == "auto":
            object.__setattr__(self, "nouns", "spacy" if has_spacy() else "rules")

    @property
    def folder(self) -> Path:
        """Where the data lies or would lie."""
        return dataset_folder(DATASET, self.data)

    @property
    def noun_source(self) -> NounSource:
        """Who finds nouns, settled."""
        return "spacy" if self.nouns == "spacy" else "rules"


class WebshopFactory(EnvFactory[WebshopConfig]):
    """Makes visits to the shop; a process loads it once."""

    name = DATASET
    config_class = WebshopConfig

    def make(self, config: WebshopConfig, seed: int) -> WebshopEnv:
        """The goal of `seed`: training seeds go through the training goals in order, and start again after the last.

        Raises:
            Missing: the data is not there. BadInput: it can't be read, or leaves no goal to train on.
        """
        style = WebshopCompactStyle() if config.prompt == "compact" else FullStyle()
        rules = ShoppingRules(
            config.max_turns,
            nouns_by(config.noun_source),
            config.reward,
            shows_score=config.show_score,
            original=config.original,
        )
        return WebshopEnv(load_shop(config.folder, config.catalogue), goal_of(config, seed), style, rules)

    def check_data(self, config: WebshopConfig) -> None:
        """Check that the files of the configured catalogue are there.

        Raises:
            Missing: some are not, or spaCy isn't.
        """
        check_files(config.folder, config.catalogue, is_human=config.goals == "human")
        nouns_by(config.noun_source)

    def references(self, config: WebshopConfig, episodes: int) -> tuple[Reference, ...]:
        """A perfect and a random shopper, over the first goals of an evaluation."""
        return _references(config, episodes)


def goal_of(config: WebshopConfig, seed: int) -> Goal:
    """The goal that `seed` stands for."""
    check_files(config.folder, config.catalogue, is_human=config.goals == "human")
    split = load_split(config.folder, config.catalogue, config.goals, config.evaluation_goals, original=config.original)
    is_evaluation = config.split == "evaluation" or (not config.split and seed >= EVALUATION_SEED)
    goals = split.evaluation if is_evaluation else split.train
    if not goals:
        raise BadInput(
            f"env.options.evaluation_goals = {config.evaluation_goals}: of the {len(split.evaluation)} {config.goals} "
            f"goals in {config.folder} none is left to train on"
        )
    return goals[seed % EVALUATION_SEED % len(goals)]


@functools.lru_cache(maxsize=8)
def _references(config: WebshopConfig, episodes: int) -> tuple[Reference, ...]:
    envs = [FACTORY.make(config, EVALUATION_SEED + index) for index in range(_REFERENCE_GOALS)]
    return shopping_references(envs, episodes)


FACTORY = WebshopFactory()
