"""Hugging Face model folders: which files make one usable."""

from __future__ import annotations

from pathlib import Path

from lamer.common.errors import Missing

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def check_model(folder: Path) -> Path:
    """The absolute path of a usable Hugging Face model folder.

    Raises:
        Missing: no such folder, or it lacks its configuration, its tokenizer or its weights.
    """
    if not folder.is_dir():
        raise Missing(f"model.path: the folder {folder} is not there; download the model or leave model.path empty")
    lacking = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        lacking.append("weights (model.safetensors)")
    if lacking:
        raise Missing(f"model.path: {folder} lacks {', '.join(lacking)}")
    return folder.resolve()
