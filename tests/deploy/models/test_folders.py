"""A model folder that lacks something is named with what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.deploy.models.folders import check_model


def test_a_folder_that_lacks_files_is_named_with_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Missing, match=r"lacks tokenizer\.json, weights \(model\.safetensors\)"):
        check_model(tmp_path)


def test_weights_may_be_one_file_or_several_with_an_index(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text("{}")
    assert check_model(tmp_path) == tmp_path.resolve()
