"""A model folder's small files on a machine that lacks the folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamer.common.errors import BadInput
from lamer.common.model_files import cache_root, keep_model_files
from lamer.common.weights import NamedFile

FILES = (NamedFile("config.json", b"{}"), NamedFile("tokenizer.json", b"words" * 1000))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_written_once_into_a_folder_of_their_contents(tmp_path: Path) -> None:
    folder = keep_model_files(FILES, tmp_path / "models")
    assert contents(folder) == {file.name: file.data for file in FILES}
    written = (folder / "config.json").stat().st_mtime_ns
    assert keep_model_files(FILES[::-1], tmp_path / "models") == folder
    assert (folder / "config.json").stat().st_mtime_ns == written


def test_other_contents_have_another_folder(tmp_path: Path) -> None:
    other = (FILES[0], NamedFile("tokenizer.json", b"other"))
    assert keep_model_files(FILES, tmp_path) != keep_model_files(other, tmp_path)


def test_a_damaged_folder_is_written_again(tmp_path: Path) -> None:
    folder = keep_model_files(FILES, tmp_path)
    (folder / "tokenizer.json").write_bytes(b"half")
    assert contents(keep_model_files(FILES, tmp_path)) == {file.name: file.data for file in FILES}


def test_many_at_once_leave_one_whole_folder_and_nothing_else(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = set(pool.map(lambda _: keep_model_files(FILES, tmp_path), range(64)))
    assert [each for each in tmp_path.iterdir() if each.name != ".lock"] == list(folders)
    assert contents(folders.pop()) == {file.name: file.data for file in FILES}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", "", "a\\b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no plain file name"):
        keep_model_files((*FILES, NamedFile(name, b"x")), tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="twice"):
        keep_model_files((*FILES, FILES[0]), tmp_path)


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "lamer" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "lamer" / "models"
