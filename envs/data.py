"""Where environments find data that does not come with lamer: product catalogues, game files.

A dataset is a folder. Its place is, in this order: the environment's option `data`, the folder DATASET of the directory
that the variable LAMER_DATA names, `~/.cache/lamer/data/DATASET`. `lamer data` fills it.
"""

from __future__ import annotations

import os
from pathlib import Path

from lamer.common.errors import Missing

ROOT_VARIABLE = "LAMER_DATA"


def data_root() -> Path:
    """The directory that holds a folder for each dataset."""
    configured = os.environ.get(ROOT_VARIABLE, "")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "lamer" / "data"


def dataset_folder(dataset: str, configured: str = "") -> Path:
    """Where `dataset` lies or would lie; `configured` is the environment's option, "" for the common place."""
    return Path(configured).expanduser() if configured else data_root() / dataset


def require_files(dataset: str, folder: Path, names: tuple[str, ...]) -> None:
    """Check that a dataset's folder holds files or folders of these names.

    Raises:
        Missing: it does not; the message says which command brings them.
    """
    lacking = [name for name in names if not (folder / name).exists()]
    if lacking:
        raise Missing(
            f"{dataset}: {folder} lacks {', '.join(lacking)}; run `lamer data fetch {dataset}`, "
            f"or `lamer data import {dataset} DIR` with the files at hand"
        )
