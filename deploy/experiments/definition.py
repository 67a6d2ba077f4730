"""What an experiment's YAML says. `read` finds, checks and returns it; nothing in it is resolved or started yet.

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

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from lamer.common.errors import BadInput, Missing
from lamer.common.schema import suggestion

READY = Path(__file__).resolve().parent / "ready"
"""The experiments that come with lamer."""

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*$")
OWNED_KEYS = ("run.name", "run.directory", "run.seed", "tracking.experiment")
FINAL = ""
"""The evaluation that ends every run, by its name in an experiment."""
INITIAL = "initial"
"""The evaluation of the model before training, by its name in an experiment."""

Value = str | bool | int | float


class ExperimentError(BadInput):
    """An experiment that can't be used; the message names its file, the key and the value."""


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Every part of a definition: `read` refuses keys that it does not have."""


class Arm(_Part, frozen=True, kw_only=True):
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


class Axis(_Part, frozen=True, kw_only=True):
    """A setting, by its full key, and its values."""

    name: str
    key: str
    values: tuple[Value, ...]
    title: str = ""

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return self.title or self.name


class Evaluation(_Part, frozen=True, kw_only=True):
    """`lamer eval` of a cell's model with the cell's configuration and `overrides`. arms: of these only; () all."""

    name: str
    overrides: tuple[str, ...]
    title: str = ""
    arms: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What tables and plots call it."""
        return self.title or self.name


class PaperFigure(_Part, frozen=True, kw_only=True):
    """The paper's success rates in percent for an arm: pass@1, pass@2, ...; null where it gives none.

    at: values of axes. evaluation: of this evaluation, else of the one that ends a run.
    """

    source: str
    arm: str
    pass_at: tuple[float | None, ...]
    at: dict[str, Value] = {}
    evaluation: str = FINAL


class PaperFact(_Part, frozen=True, kw_only=True):
    """What the paper says without a number of its own that could stand in a table."""

    source: str
    fact: str


class Block(_Part, frozen=True, kw_only=True):
    """A table, a plot or both on the page.

    pass_at      arms x pass@k of one evaluation; pass@k over k        axis   pass@k over the values of an axis
    evaluations  arms x evaluations, pass@k of the last k               curves   training's pass@k over the updates
    diversity    entropy of trajectories and what goes with it   figures   arms x metrics of the end of training

    arms: these only. k: which pass@k is drawn; 0 the last.
    """

    kind: Literal["pass_at", "axis", "evaluations", "curves", "diversity", "figures"]
    title: str
    arms: tuple[str, ...] = ()
    evaluation: str = FINAL
    evaluations: tuple[str, ...] = ()
    axis: str = ""
    figures: tuple[str, ...] = ()
    k: int = 0
    plot: bool = True


class NotRun(_Part, frozen=True, kw_only=True):
    """Something that the page lists as not run."""

    what: str
    why: str


class Experiment(_Part, frozen=True, kw_only=True):
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


def ready() -> tuple[str, ...]:
    """The names of the experiments that come with lamer, sorted."""
    return tuple(sorted(path.stem for path in READY.glob("*.yaml")))


def read_ready() -> tuple[Experiment, ...]:
    """The experiments that come with lamer, in the order of the page of results."""
    return tuple(sorted(map(read, ready()), key=lambda each: (each.order, each.name)))


def read(name: str) -> Experiment:
    """The experiment that a user names by a YAML file, or by the name of a ready one.

    Raises:
        ExperimentError: unknown key, wrong type, or a name that stands for nothing. Missing: there is no such file.
    """
    path = _find(name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise ExperimentError(f"{path}{where} is no YAML: {getattr(error, 'problem', None) or error}") from error
    return parse(tree, path.name)


def parse(tree: object, source: str) -> Experiment:
    """The experiment that a YAML tree describes, checked.

    Args:
        source: where the tree was read, for messages.
    """
    _check_keys(Experiment, tree, "", source)
    try:
        experiment = msgspec.convert(tree, Experiment)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise ExperimentError(f"{source}: {place.rstrip('`').lstrip('.') or 'the file'}: {problem}") from error
    for problem in _problems(experiment):
        raise ExperimentError(f"{source}: {problem}")
    return experiment


def _find(name: str) -> Path:
    path = Path(name)
    for place in (path, READY / f"{name}.yaml"):
        if place.is_file():
            return place
    raise Missing(f"no experiment {name}{suggestion(name, ready())} (there are {', '.join(ready())})")


def _check_keys(schema: object, tree: object, prefix: str, source: str) -> None:
    """Refuse keys that a part does not have, at any depth; types are msgspec's business."""
    if isinstance(schema, type) and issubclass(schema, _Part) and isinstance(tree, Mapping):
        hints = typing.get_type_hints(schema)
        for key, value in tree.items():
            if key not in hints:
                known = [f"{prefix}{name}" for name in hints]
                raise ExperimentError(f"unknown key {prefix}{key} in {source}{suggestion(f'{prefix}{key}', known)}")
            _check_keys(hints[key], value, f"{prefix}{key}.", source)
    elif typing.get_origin(schema) is tuple and isinstance(tree, list):
        for index, item in enumerate(tree):
            _check_keys(typing.get_args(schema)[0], item, f"{prefix.rstrip('.')}[{index}].", source)


def _problems(experiment: Experiment) -> Iterator[str]:
    """What is wrong with names, one sentence each."""
    arms = [arm.name for arm in experiment.arms]
    evaluations = [each.name for each in experiment.evaluations]
    axes = [axis.name for axis in experiment.axes]
    yield from _unusable([experiment.name], "the experiment")
    yield from _unusable(arms, "an arm")
    yield from _unusable(evaluations, "an evaluation")
    yield from _unusable(axes, "an axis")
    if INITIAL in evaluations:
        yield f"an evaluation can't be called {INITIAL}: that is the one before training"
    known_evaluations = (FINAL, INITIAL, *evaluations)
    for index, figure in enumerate(experiment.paper):
        yield from _unknown(f"paper[{index}].arm", [figure.arm], arms)
        yield from _unknown(f"paper[{index}].evaluation", [figure.evaluation], known_evaluations)
        yield from _unknown(f"paper[{index}].at", figure.at, axes)
    for evaluation in experiment.evaluations:
        yield from _unknown(f"evaluations.{evaluation.name}.arms", evaluation.arms, arms)
    for index, block in enumerate(experiment.page):
        yield from _unknown(f"page[{index}].arms", block.arms, arms)
        yield from _unknown(f"page[{index}].evaluation", [block.evaluation], known_evaluations)
        yield from _unknown(f"page[{index}].evaluations", block.evaluations, known_evaluations)
        if block.kind == "axis":
            yield from _unknown(f"page[{index}].axis", [block.axis], axes)
    yield from (f"a seed is {seed}; it must be at least 0" for seed in _seeds(experiment) if seed < 0)
    yield from _overridden(experiment)


def _seeds(experiment: Experiment) -> tuple[int, ...]:
    return (*experiment.seeds, *(seed for arm in experiment.arms for seed in arm.seeds))


def _overridden(experiment: Experiment) -> Iterator[str]:
    for override in (
        *experiment.overrides,
        *(override for arm in experiment.arms for override in arm.overrides),
        *(override for evaluation in experiment.evaluations for override in evaluation.overrides),
        *(axis.key for axis in experiment.axes),
    ):
        key = override.partition("=")[0].strip()
        if key in OWNED_KEYS:
            yield f"{key} can't be overridden: the experiment sets it for every cell"


def _unusable(names: Sequence[str], kind: str) -> Iterator[str]:
    for index, name in enumerate(names):
        if not _NAME.match(name):
            yield f"{kind} can't be called {name!r}: letters, digits and '_', with '-' between them"
        if name in names[:index]:
            yield f"{kind} is called {name!r} twice"


def _unknown(key: str, names: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name not in known:
            there = ", ".join(each for each in known if each) or "none"
            yield f"{key}: there is no {name!r}{suggestion(name, [*known])} (there are: {there})"
