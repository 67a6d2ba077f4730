"""What an experiment's YAML says, part by part; `deploy.experiments.reading` reads and checks it.

    name, title, question        what it is called and what it is to tell
    base, overrides, seeds       configuration files, `key=value` overrides and seeds of every cell
    arms                         what is compared: each with overrides, base files and seeds of its own
    axes                         settings that every arm is run with several values of
    evaluations                  `lamer eval` of each cell's model with further overrides
    paper, paper_says            the paper's numbers for arms, and what its text says where it gives none
    page                         tables and plots, in their order;  not_run   what is missing, and why

Cells are arms x axes x seeds (`deploy.experiments.cells`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamer.common.errors import BadInput

FINAL = ""
"""The evaluation that ends every run, by its name in an experiment."""
INITIAL = "initial"
"""The evaluation of the model before training, by its name in an experiment."""

Value = str | bool | int | float


class ExperimentError(BadInput):
    """An experiment that can't be used; the message names its file, the key and the value."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Every part of a definition: reading refuses keys that it does not have."""


class Arm(Part, frozen=True, kw_only=True):
    """One of the things compared. Its cells run with the experiment's overrides, then its own.

    base: instead of the experiment's; the same for seeds. axes: whether it is run with every value of the axes, else
    once. not_run: the reason why it has no cells; it stays a row of tables.
    """

    name: str
    title: str = ""
    base: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    axes: bool = True
    not_run: str = ""

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return self.title or self.name


class Axis(Part, frozen=True, kw_only=True):
    """A setting, by its full key, and its values."""

    name: str
    key: str
    values: tuple[Value, ...]
    title: str = ""

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return self.title or self.name


class Evaluation(Part, frozen=True, kw_only=True):
    """`lamer eval` of a cell's model with the cell's configuration and `overrides`. arms: of these only; () all."""

    name: str
    overrides: tuple[str, ...]
    title: str = ""
    arms: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return self.title or self.name


class PaperFigure(Part, frozen=True, kw_only=True):
    """The paper's success rates in percent for an arm: pass@1, pass@2, ...; null where it gives none.

    at: values of axes. evaluation: of this evaluation, else of the one that ends a run.
    """

    source: str
    arm: str
    pass_at: tuple[float | None, ...]
    at: dict[str, Value] = {}
    evaluation: str = FINAL


class PaperFact(Part, frozen=True, kw_only=True):
    """What the paper says without a number of its own that could stand in a table."""

    source: str
    fact: str


class Block(Part, frozen=True, kw_only=True):
    """A table, a plot or both on the page.

    kind: one of `deploy.experiments.blocks.KINDS`, which says what each shows. arms: these only. axis: for the kind of
    that name. k: which pass@k is drawn; 0 the last.
    """

    kind: str
    title: str
    arms: tuple[str, ...] = ()
    evaluation: str = FINAL
    evaluations: tuple[str, ...] = ()
    axis: str = ""
    figures: tuple[str, ...] = ()
    k: int = 0
    plot: bool = True


class NotRun(Part, frozen=True, kw_only=True):
    """Something that the page lists as not run."""

    what: str
    why: str


class Experiment(Part, frozen=True, kw_only=True):
    """An experiment as its file says it. order: its place among all on the page of results."""

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    page: tuple[Block, ...]
    order: int = 0
    base: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    axes: tuple[Axis, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    paper: tuple[PaperFigure, ...] = ()
    paper_says: tuple[PaperFact, ...] = ()
    not_run: tuple[NotRun, ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm called `name`."""
        return next(arm for arm in self.arms if arm.name == name)

    def chosen_arms(self, names: Sequence[str]) -> tuple[Arm, ...]:
        """The arms called `names`, all for none, in their order here."""
        return tuple(arm for arm in self.arms if not names or arm.name in names)

    def evaluations_of(self, arm: str) -> tuple[Evaluation, ...]:
        """What the models of an arm are evaluated on beside the end of their runs."""
        return tuple(each for each in self.evaluations if not each.arms or arm in each.arms)

    def evaluation_label(self, name: str) -> str:
        """What tables and plots call an evaluation."""
        fixed = {FINAL: "after training", INITIAL: "before training"}
        return fixed.get(name) or next(each.label for each in self.evaluations if each.name == name)
