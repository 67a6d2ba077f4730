"""A folder that a server starts on outlives the learner's interest in it."""

from __future__ import annotations

import shutil
from pathlib import Path

from lamer.deploy.inference.pinning import pinned


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


async def test_a_dropped_folder_can_be_read_while_it_is_pinned_and_nothing_is_left_after(tmp_path: Path) -> None:
    folder = tmp_path / "v3"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "blob").write_text("weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")  # as in a Hugging Face cache
    async with pinned(folder) as kept:
        shutil.rmtree(folder)
        (tmp_path / "blob").unlink()
        assert files(kept) == {"config.json": "{}", "model.safetensors": "weights"}
    assert files(tmp_path) == {}


async def test_a_folder_that_is_gone_already_is_named_as_it_was(tmp_path: Path) -> None:
    async with pinned(tmp_path / "v3") as kept:
        assert kept == tmp_path / "v3"
    assert files(tmp_path) == {}
