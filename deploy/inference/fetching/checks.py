"""What announced weights and the folders that hold them must satisfy before a server sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lamer.common.errors import MALFORMED
from lamer.common.folders import file_digest
from lamer.common.weights import WEIGHT_SUFFIX, WeightFile
from lamer.deploy.inference.fetching.base import DeliveryFailed

INDEX = "model.safetensors.index.json"


def check_names(files: tuple[WeightFile, ...]) -> None:
    """Weight files are named once each, by a plain name that stays inside a folder.

    Raises:
        DeliveryFailed: one is not.
    """
    names = [file.name for file in files]
    for name in names:
        if not name.endswith(WEIGHT_SUFFIX) or name.startswith(".") or "\0" in name or Path(name).name != name:
            raise DeliveryFailed(f"{name!r} is no name of a weight file such as model{WEIGHT_SUFFIX}: refused")
        if names.count(name) > 1:
            raise DeliveryFailed(f"the weight file {name} is announced twice: refused")


def check_index(folder: Path, files: tuple[WeightFile, ...]) -> None:
    """The index of `folder`, if it has one, names only announced files.

    Raises:
        DeliveryFailed: it names others, or can't be read.
    """
    path = folder / INDEX
    if not path.exists():
        return
    try:
        index: Mapping[str, Mapping[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        named = set(index["weight_map"].values())
    except (OSError, *MALFORMED, KeyError, TypeError, AttributeError) as error:
        raise DeliveryFailed(f"{path} is no index of weight files: {error!r}") from error
    others = sorted(map(str, named - {file.name for file in files}))
    if others:
        raise DeliveryFailed(f"{path} names {', '.join(others[:3])}, which was not announced: refused")


def check_folder(folder: Path, files: tuple[WeightFile, ...]) -> None:
    """`folder` holds exactly what was announced. Reads all files.

    Raises:
        DeliveryFailed: it does not; the message names the file, what it has and what it should have.
    """
    if not folder.is_dir():
        raise DeliveryFailed(f"there is no folder {folder} on this machine: use --delivery stream (or auto)")
    check_names(files)
    check_index(folder, files)
    for file in files:
        path = folder / file.name
        try:
            _check_inside(folder, path)
            size = path.stat().st_size
            if size != file.size:
                raise DeliveryFailed(f"{path} has {size} bytes, {file.size} were announced")
            digest = file_digest(path)
        except OSError as error:
            raise DeliveryFailed(f"{path} can't be read: {error}") from error
        if digest != file.digest:
            raise DeliveryFailed(f"{path} has SHA-256 {digest}, {file.digest} was announced")


def _check_inside(folder: Path, path: Path) -> None:
    """Links may not lead out of the folder, but for those of a Hugging Face cache (snapshots/REV/x -> blobs/y)."""
    real, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, blobs):
        raise DeliveryFailed(f"{path} leads out of its folder, to {real}: refused")
