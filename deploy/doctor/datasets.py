"""What `lamer data` does and prints.

fetch_dataset, import_dataset   fill a dataset's folder, compile its games, show what is there then
check_datasets                  show what is there
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from lamer.common.errors import BadInput, Missing
from lamer.envs.data import dataset_folder
from lamer.envs.datasets.definition import Dataset, Examined, FileState
from lamer.envs.datasets.download import Downloader
from lamer.envs.datasets.filling import DATASETS, Filled, fetch, find, place
from lamer.envs.datasets.ledger import Ledger

COMPILERS = {"alfworld": ("lamer.envs.alfworld.dataset", "compile_dataset")}
"""What prepares a dataset ahead of play, by module and name: a `Compile`. Its environment does so at first use else."""

_COLOURS = {
    FileState.OFFICIAL: "green",
    FileState.KEPT: "green",
    FileState.UNRECORDED: "yellow",
    FileState.ABSENT: "yellow",
    FileState.DAMAGED: "red",
    FileState.MISSING: "red",
}


class Unanswered(Protocol):
    """A game that could not be prepared."""

    @property
    def name(self) -> str:
        """Which."""
        ...

    @property
    def reason(self) -> str:
        """Why."""
        ...


class Compiled(Protocol):
    """What was prepared."""

    @property
    def games(self) -> int:
        """How many games."""
        ...

    @property
    def unsolvable(self) -> tuple[str, ...]:
        """The names of those that can't be solved."""
        ...

    @property
    def unanswered(self) -> Sequence[Unanswered]:
        """Those of which it is not known whether they can be."""
        ...


Compile = Callable[[Path, Callable[[int, int], None]], Compiled]
"""Prepares the dataset of a folder; it tells of games done and in all."""


class Bars:
    """Progress bars on a terminal, elsewhere a line for each; used as a context."""

    def __init__(self, console: Console, unit: str, counts: DownloadColumn | MofNCompleteColumn) -> None:
        self._console = console
        self._unit = unit
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), counts, console=console, disable=not console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, name: str, done: int, total: int) -> None:
        """Move the bar of a name."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
            if not self._console.is_terminal:
                self._console.print(f"{name}, {total:,} {self._unit}", soft_wrap=True)
        self._progress.update(self._tasks[name], completed=done, total=total)


def fetch_dataset(
    name: str, folder: Path | None, mirror: str = "", *, compiles: bool = False, console: Console | None = None
) -> None:
    """Bring a dataset from its official places, or from a mirror of them. compiles: and compile its games at once.

    Raises:
        BadInput: no such dataset, no such address. Missing: it can't be fetched; the message says what else to do.
    """
    dataset, console = find(name), console or Console()
    target = folder or dataset_folder(name)
    if mirror and not mirror.startswith(("http://", "https://")):
        raise BadInput(f"--mirror {mirror!r} is no http:// or https:// address")
    try:
        with Bars(console, "bytes", DownloadColumn()) as bars:
            filled = fetch(dataset, target, Downloader(bars.show), mirror)
    except Missing as error:
        raise Missing(
            f"{error}; copy the files here by other means and run `lamer data import {name} DIR` (docs/environments.md)"
        ) from error
    _finish(dataset, target, filled, console, compiles=compiles)


def import_dataset(
    name: str, folder: Path | None, places: Sequence[Path], *, compiles: bool = False, console: Console | None = None
) -> None:
    """Take a dataset from files at hand. compiles: and compile its games at once.

    Raises:
        BadInput: no such dataset, nothing that belongs to it, or a file that can't be used. Missing: no such place.
    """
    dataset, console = find(name), console or Console()
    target = folder or dataset_folder(name)
    _finish(dataset, target, place(dataset, target, places), console, compiles=compiles)


def check_datasets(name: str | None, folder: Path | None, console: Console | None = None) -> None:
    """Show one dataset, or all of them.

    Raises:
        BadInput: no such dataset. Missing: something that environments need is not there or is damaged.
    """
    console = console or Console()
    if folder is not None and name is None:
        raise BadInput("--folder is the folder of one dataset: name it")
    lacking: list[str] = []
    for each in (name,) if name is not None else sorted(DATASETS):
        dataset = find(each)
        place_ = folder or dataset_folder(each)
        parts = dataset.examine(place_, Ledger.read(place_))
        console.print(parts_table(each, place_, parts))
        bad = [f"{part.name} {part.state.value}" for part in parts if not part.state.is_usable]
        if bad:
            lacking.append(
                f"{each}: {', '.join(bad)}; run `lamer data fetch {each}`, or `lamer data import {each} DIR`"
            )
    if lacking:
        raise Missing("; ".join(lacking))


def parts_table(name: str, folder: Path, parts: Sequence[Examined]) -> Table:
    """The parts of a dataset, one a line."""
    table = Table(title=f"{name}  {folder}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("part", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("SHA-256", no_wrap=True)
    table.add_column("holds", overflow="fold")
    for part in parts:
        state = Text(part.state.value, style=_COLOURS[part.state])
        size = f"{part.size:,}" if part.size else "-"
        table.add_row(part.name, state, size, part.sha256[:16] or "-", Text(part.note))
    return table


def _finish(dataset: Dataset, folder: Path, filled: Filled, console: Console, *, compiles: bool) -> None:
    for note in filled.notes:
        console.print(Text(f"{dataset.name}: {note}"), soft_wrap=True)
    if filled.files:
        console.print(Text(f"{dataset.name}: {len(filled.files):,} files placed in {folder}"), soft_wrap=True)
    if compiles:
        _compile(dataset, folder, console)
    elif dataset.name in COMPILERS:
        console.print(Text(f"{dataset.name}: a game is compiled when it is first played, or now with --compile"))
    console.print(parts_table(dataset.name, folder, dataset.examine(folder, Ledger.read(folder))))


def _compile(dataset: Dataset, folder: Path, console: Console) -> None:
    """Prepare every game ahead of play.

    Raises:
        BadInput: the dataset has nothing to prepare. Missing: what prepares it is not installed.
    """
    if dataset.name not in COMPILERS:
        raise BadInput(f"--compile: {dataset.name} has no games to compile")
    module, name = COMPILERS[dataset.name]
    try:
        compile_games: Compile = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Missing(f"{dataset.name}: the files are placed, but games can't be compiled: {error}") from error
    with Bars(console, "games", MofNCompleteColumn()) as bars:
        made = compile_games(folder, lambda done, total: bars.show("compiling", done, total))
    console.print(Text(f"{dataset.name}: {made.games:,} games compiled, {len(made.unsolvable):,} can't be solved"))
    if made.unanswered:
        first = made.unanswered[0]
        told = (
            f"of {len(made.unanswered):,} games the planner did not say; they stay in play, compile again to ask again"
        )
        console.print(Text(f"{dataset.name}: {told} (first {first.name}: {first.reason})"), soft_wrap=True)
