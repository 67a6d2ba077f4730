"""Filling a dataset's folder: from its official addresses, or from files at hand.

    fetch   download what lacks, then place it
    place   choose among files at hand, check them, move them in

Files are chosen and checked in a staging folder inside the dataset's own, and moved when all of them are good; an
interrupted download stays in `downloads/` and goes on with the next call. One process at a time fills a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.folders import scratch_folder
from lamer.envs.datasets.alfworld import AlfWorld
from lamer.envs.datasets.arrival import members
from lamer.envs.datasets.definition import Dataset, Source
from lamer.envs.datasets.download import Downloader
from lamer.envs.datasets.ledger import Ledger
from lamer.envs.datasets.webshop import WebShop

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (AlfWorld(), WebShop())}
DOWNLOADS = "downloads"


@dataclass(frozen=True, slots=True)
class Filled:
    """What came: files, relative to the dataset's folder, and what was left out or is worth knowing."""

    files: tuple[PurePosixPath, ...]
    notes: tuple[str, ...]


def find(name: str) -> Dataset:
    """The dataset of a name.

    Raises:
        BadInput: there is none.
    """
    if name not in DATASETS:
        raise BadInput(f"no dataset is called {name!r}; there are {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


def fetch(dataset: Dataset, folder: Path, downloader: Downloader, mirror: str = "") -> Filled:
    """Download what `folder` lacks of the official files, and place it.

    Args:
        dataset: what to fetch.
        folder: its folder, made where it is not there.
        downloader: how.
        mirror: an address under which the files lie by their names, in place of the official ones.

    Raises:
        Missing: a file can't be fetched; what has arrived goes on with the next call. BadInput: a file can't be used.
    """
    with _filling(dataset, folder):
        sources = dataset.wanted(folder, Ledger.read(folder))
        if not sources:
            return Filled((), ("everything is there already",))
        downloads, notes = folder / DOWNLOADS, []
        for source in [_at(source, mirror) for source in sources]:
            if not (downloads / source.name).is_file():
                url = downloader.download(source, downloads / source.name)
                if url != source.urls[0]:
                    notes.append(f"{source.urls[0]} did not give {source.name}; {url} did, the very file by its hash")
        filled = _place(dataset, folder, [downloads / source.name for source in sources])
        shutil.rmtree(downloads)
        return Filled(filled.files, (*notes, *filled.notes))


def place(dataset: Dataset, folder: Path, places: Sequence[Path]) -> Filled:
    """Take what belongs to the dataset from folders, archives or files at hand.

    Raises:
        Missing: a place is not there. BadInput: nothing in it belongs here, or an archive or a file can't be used;
            nothing was changed then.
    """
    with _filling(dataset, folder):
        return _place(dataset, folder, places)


def _place(dataset: Dataset, folder: Path, places: Sequence[Path]) -> Filled:
    with scratch_folder(folder, ".arriving-") as staging:
        chosen = dataset.choose(itertools.chain.from_iterable(members(each) for each in places), staging)
        if not chosen.files:
            reasons = f" ({'; '.join(chosen.notes)})" if chosen.notes else ""
            where = ", ".join(str(each) for each in places)
            raise BadInput(
                f"{where}: nothing there belongs to {dataset.name}{reasons}: expected are {dataset.expected}"
            )
        for file in chosen.files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / file, target)
    dataset.settle(folder, chosen, Ledger.read(folder)).write(folder)
    return Filled(chosen.files, chosen.notes)


def _at(source: Source, mirror: str) -> Source:
    if not mirror:
        return source
    return Source(source.name, (f"{mirror.rstrip('/')}/{source.name}",), source.size, source.sha256)


@contextlib.contextmanager
def _filling(dataset: Dataset, folder: Path) -> Iterator[None]:
    """Hold the folder, made where it is not there, against other processes that fill it.

    Raises:
        Missing: it can't be made or written to. BadInput: another process fills it. RunFailed: the disk is full, or
            a file can't be replaced.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise Missing(f"{dataset.name}: {folder} can't be written to: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"{dataset.name}: another `lamer data` is filling {folder}; wait for it") from error
        try:
            yield
        except OSError as error:
            raise RunFailed(f"{dataset.name}: {folder} can't be filled: {error}") from error
