"""The grid of an experiment: arms x axes x seeds, each a normal run whose configuration is resolved before any starts.

A cell's run is called ARM[-AXISvalue...]-sSEED and lies in the experiment's folder; the run of an evaluation of its
model is called CELL.EVALUATION. What makes two runs the same is the text of their settings (`identity`), not where they
lie, so that a result outlives its run folder and serves every experiment that has the same cell.
"""

from __future__ import annotations

import functools
import itertools
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lamer.common import config
from lamer.common.errors import LamerError
from lamer.common.masking import masked_word
from lamer.common.settings import Settings
from lamer.deploy.experiments.definition import Arm, Evaluation, Experiment, ExperimentError, Value
from lamer.deploy.run.configuration import read_settings
from lamer.envs import registry

_EVALUATION_FREE = ("model.path", "batch.updates", "evaluation.initial")
"""What `lamer eval` sets itself."""


@dataclass(frozen=True, slots=True)
class CellEvaluation:
    """An evaluation of a cell's model. overrides: after those of the cell. settings: what they resolve to."""

    name: str
    overrides: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class CellKey:
    """Where a cell stands in the grid. at: (axis, value) pairs."""

    arm: str
    at: tuple[tuple[str, Value], ...]
    seed: int

    @property
    def name(self) -> str:
        """The run's name, unique within the experiment."""
        return "-".join([self.arm, *(f"{axis}{value_text(value)}" for axis, value in self.at), f"s{self.seed}"])


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid. overrides: all of them, the seed's included. settings: what they resolve to."""

    experiment: str
    key: CellKey
    base: tuple[str, ...]
    overrides: tuple[str, ...]
    settings: Settings
    evaluations: tuple[CellEvaluation, ...]

    @property
    def name(self) -> str:
        """The run's name, unique within the experiment."""
        return self.key.name

    def train_arguments(self, folder: Path, is_resume: bool) -> tuple[str, ...]:
        """Of `lamer`, to run the cell as the run `folder`/NAME."""
        flags = ("--name", self.name, "--plain", *(("--resume",) if is_resume else ()))
        return ("train", *self._files(), *flags, *self._placed(folder), *self.overrides)

    def evaluate_arguments(self, evaluation: CellEvaluation, model: Path, folder: Path) -> tuple[str, ...]:
        """Of `lamer`, to evaluate a model folder, or a run folder's model, as the run `folder`/NAME.EVALUATION."""
        flags = ("--name", self.evaluation_run(evaluation.name), "--plain")
        overrides = (*self._placed(folder), *self.overrides, *evaluation.overrides)
        return ("eval", str(model), *self._files(), *flags, *overrides)

    def evaluation_run(self, evaluation: str) -> str:
        """The name of the run of an evaluation."""
        return f"{self.name}.{evaluation}"

    def shown_command(self, evaluation: CellEvaluation | None = None) -> str:
        """The command as a page shows it: what a reader types to run the cell by itself."""
        if evaluation is None:
            return _shown("train", *self._files(), *self.overrides)
        model = f"experiments/{self.experiment}/{self.name}"
        return _shown("eval", model, *self._files(), *self.overrides, *evaluation.overrides)

    def _files(self) -> tuple[str, ...]:
        return tuple(itertools.chain.from_iterable(("-c", file) for file in self.base))

    def _placed(self, folder: Path) -> tuple[str, ...]:
        return (config.override("run.directory", str(folder)), f"tracking.experiment=lamer-{self.experiment}")


def _shown(*arguments: str) -> str:
    return shlex.join(("lamer", *map(masked_word, arguments)))


def axis_override(key: str, value: Value) -> str:
    """The override that sets an axis's key to one of its values; text stays text."""
    return config.override(key, value) if isinstance(value, str) else f"{key}={value_text(value)}"


def value_text(value: Value) -> str:
    """A value of an axis as YAML writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def grid(experiment: Experiment) -> tuple[CellKey, ...]:
    """Every cell's place: the first seed of every arm, then the second ones, so that a page fills evenly."""
    ranked: list[tuple[int, CellKey]] = []
    for arm in experiment.arms:
        if not arm.not_run:
            for rank, seed in enumerate(arm.seeds or experiment.seeds):
                ranked += [(rank, CellKey(arm.name, at, seed)) for at in points(experiment, arm)]
    return tuple(key for _, key in sorted(ranked, key=lambda pair: pair[0]))


def points(experiment: Experiment, arm: Arm) -> tuple[tuple[tuple[str, Value], ...], ...]:
    """The combinations of axis values that an arm is run with, each as (axis, value) pairs; one empty for none."""
    axes = experiment.axes if arm.axes else ()
    return tuple(itertools.product(*([(axis.name, value) for value in axis.values] for axis in axes)))


def make_cells(experiment: Experiment) -> tuple[Cell, ...]:
    """Every cell of the grid with its configuration.

    Raises:
        LamerError: a configuration file, an override or an option of the environment can't be used; the message names
            the arm. Nothing has been started then.
    """
    keys = grid(experiment)
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise ExperimentError(f"two cells of {experiment.name} are called {name}: rename an arm or an axis")
    return tuple(_make_cell(experiment, key) for key in keys)


def _make_cell(experiment: Experiment, key: CellKey) -> Cell:
    arm = experiment.arm(key.arm)
    base = arm.base or experiment.base
    keys = {axis.name: axis.key for axis in experiment.axes}
    on_axes = tuple(axis_override(keys[axis], value) for axis, value in key.at)
    overrides = (*experiment.overrides, *arm.overrides, *on_axes)
    where = f"arm {arm.name} of {experiment.name}"
    settings = _resolve(base, overrides, key.seed, where)
    evaluations = tuple(
        CellEvaluation(each.name, each.overrides, _evaluation_settings(base, overrides, key.seed, each, where))
        for each in experiment.evaluations_of(arm.name)
    )
    return Cell(experiment.name, key, base, (*overrides, f"run.seed={key.seed}"), settings, evaluations)


def _evaluation_settings(
    base: tuple[str, ...], overrides: tuple[str, ...], seed: int, evaluation: Evaluation, where: str
) -> Settings:
    place = f"evaluation {evaluation.name} of {where}"
    settings = _resolve(base, (*overrides, *evaluation.overrides), seed, place)
    fixed = replace(settings, model=replace(settings.model, path=""), batch=replace(settings.batch, updates=0))
    return replace(fixed, evaluation=replace(settings.evaluation, initial=False))


def _resolve(base: tuple[str, ...], overrides: tuple[str, ...], seed: int, where: str) -> Settings:
    try:
        settings = _read(base, overrides)
    except LamerError as error:
        raise type(error)(f"{where}: {error}") from error
    return replace(settings, run=replace(settings.run, seed=seed))


@functools.lru_cache(maxsize=1024)
def _read(base: tuple[str, ...], overrides: tuple[str, ...]) -> Settings:
    """A configuration, read once for all seeds and for the pages that follow."""
    return read_settings([Path(file) for file in base], overrides)


def identity(settings: Settings) -> dict[str, str]:
    """What makes two runs the same, by full key: all that `config_hash` covers, and how long the run is."""
    updates = {"batch.updates": str(settings.batch.updates)}
    return dict(config.identity(settings)) | updates


def differences(recorded: Mapping[str, str], wanted: Settings, *, is_evaluation: bool = False) -> tuple[str, ...]:
    """Keys in which a recorded run (its `identity`) is another than the wanted one.

    A setting that the record lacks came later: what was run then is its default. is_evaluation: leave out what
    `lamer eval` sets itself.
    """
    now = identity(wanted)
    environment = registry.canonical_config(wanted.env.name, {})
    defaults = identity(Settings()) | {
        f"env.options.{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in json.loads(environment).items()
    }
    then = {key: recorded.get(key, defaults.get(key)) for key in now} | dict(recorded)
    return tuple(
        key
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not (is_evaluation and key in _EVALUATION_FREE)
    )
