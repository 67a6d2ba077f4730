"""The files of a model folder other than its weights, as they are sent to hosts and actors."""

from __future__ import annotations

import logging
from pathlib import Path

from lamer.common.messages import ModelFiles
from lamer.common.weights import INDEX_SUFFIX, WEIGHT_SUFFIX, NamedFile, companion_files

log = logging.getLogger("lamer.gateway")

MODEL_FILES_BYTES = 128 * 1024 * 1024


def read_model_files(folder: Path) -> ModelFiles:
    """The files of a model folder other than weights, as long as they are not over `MODEL_FILES_BYTES` together. The
    index of sharded weights is among them.

    Raises:
        OSError: the folder is gone.
    """
    paths = [*companion_files(folder), *folder.glob(f"*{WEIGHT_SUFFIX}{INDEX_SUFFIX}")]
    paths.sort(key=lambda path: path.stat().st_size)
    files, total = [], 0
    for path in paths:
        total += path.stat().st_size
        if total > MODEL_FILES_BYTES:
            log.warning("%s and larger files of %s are not given to hosts and actors", path.name, folder)
            break
        files.append(NamedFile(path.name, path.read_bytes()))
    return ModelFiles(tuple(files))
