"""Reading an experiment's YAML: found, checked and returned; nothing in it is resolved or started yet.

ready, read_ready   the experiments that come with lamer
read                the one that a user names;  parse   that of a YAML tree
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from lamer.common import plain_text
from lamer.common.config import NO_YAML
from lamer.common.errors import Missing
from lamer.common.schema import suggestion
from lamer.deploy.experiments.blocks import KINDS
from lamer.deploy.experiments.definition import FINAL, INITIAL, Experiment, ExperimentError, Part

READY = Path(__file__).resolve().parent / "ready"
"""The experiments that come with lamer."""
OWNED_KEYS = ("run.name", "run.directory", "run.seed", "tracking.experiment")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*$")


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
        tree = plain_text.read_yaml(path, Experiment)
    except NO_YAML as error:
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
    if isinstance(schema, type) and issubclass(schema, Part) and isinstance(tree, Mapping):
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
        yield from _unknown(f"page[{index}].kind", [block.kind], [*KINDS])
        yield from _unknown(f"page[{index}].arms", block.arms, arms)
        yield from _unknown(f"page[{index}].evaluation", [block.evaluation], known_evaluations)
        yield from _unknown(f"page[{index}].evaluations", block.evaluations, known_evaluations)
        if block.kind in KINDS and KINDS[block.kind].is_over_an_axis:
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
