"""Rooms from level files: which level a seed plays, splits, errors that name file and line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lamer.common.errors import BadInput, LamerError, Missing
from lamer.common.records import Task
from lamer.envs import registry
from lamer.envs.base import Env

LEVELS = "; 0\n#####\n#@$.#\n#####\n\n; 7\n######\n#+$  #\n# *  #\n######\n"


def make(options: dict[str, Any], seed: int = 0) -> Env:
    return registry.make_env(Task("sokoban", registry.canonical_config("sokoban", options), seed))


def test_levels_of_a_file_are_played_by_seed_modulo_their_number(tmp_path: Path) -> None:
    path = tmp_path / "levels.txt"
    path.write_text(LEVELS)
    assert make({"levels": str(path)}, seed=0).reset().text == "0: # # # # #\n1: # P X O #\n2: # # # # #"
    second = make({"levels": str(path)}, seed=1).reset().text
    assert second == "0: # # # # # #\n1: # S X _ _ #\n2: # _ √ _ _ #\n3: # # # # # #"
    assert make({"levels": str(path)}, seed=5).reset().text == second
    assert make({"levels": str(path)}, seed=2).step("<action>right</action>").is_solved


def test_a_level_file_that_is_not_there_or_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"env\.options\.levels = '.*absent\.txt' can't be read: No such file"):
        registry.decode_config("sokoban", {"levels": str(tmp_path / "absent.txt")})
    (tmp_path / "picture.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Missing, match=r"picture\.txt' can't be read: it is no text"):
        registry.decode_config("sokoban", {"levels": str(tmp_path / "picture.txt")})


def test_a_title_that_is_not_utf_8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "levels.txt"
    path.write_bytes(b"; caf\xe9\n" + LEVELS.partition("\n")[2].encode())
    assert make({"levels": str(path)}, seed=0).reset().text == "0: # # # # #\n1: # P X O #\n2: # # # # #"


def write_splits(folder: Path) -> Path:
    """A folder in Boxoban's layout: two files to train on, one to validate with."""
    for name, text in (("train/001.txt", LEVELS), ("train/000.txt", "; 0\n####\n#+$#\n# *#\n####\n")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "valid").mkdir()
    (folder / "valid" / "000.txt").write_text("; 0\n######\n#@$ .#\n######\n")
    return folder


def test_a_split_plays_the_files_of_its_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    options = {"levels": str(write_splits(tmp_path))}
    train = [make({**options, "split": "train"}, seed).reset().text for seed in range(4)]
    assert train[0] == "0: # # # #\n1: # S X #\n2: # _ √ #\n3: # # # #"
    assert train[1] == "0: # # # # #\n1: # P X O #\n2: # # # # #"
    assert train[3] == train[0]
    assert make({**options, "split": "valid"}).reset().text not in train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, r"env\.options\.split = 'train': only env\.options\.levels has splits"),
        ({"split": "test", "levels": "{}"}, r"no level files .*/test'; env\.options\.split can be train, valid"),
        ({"split": "", "levels": "{}"}, r"no level files .*can be train, valid"),
        ({"split": "../x", "levels": "{}/train"}, "no level files"),
        ({"split": "train", "levels": "{}/train/000.txt"}, "is no folder of splits"),
    ],
)
def test_a_split_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_splits(tmp_path)
    options = {name: value.format(tmp_path) for name, value in options.items()}
    with pytest.raises(LamerError, match=message):
        registry.decode_config("sokoban", options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no level"),
        ("#####\n#@$.#\n#####\n", "no line '; 0'"),
        ("; 0\n#####\n#@$ #\n#####\n", "line 2: .* one player and as many boxes as targets, it has 1 .* 1 .* 0"),
        ("; 0\n#####\n# $.#\n#####\n", "it has 0 players"),
        ("; 0\n", "line 2: .* it has 0 players"),
        ("; 0\n#####\n#@$.\n#####\n", "line 3: 4 cells, the level's first line has 5"),
        (LEVELS + "\n; 8\n#####\n#@$!#\n#####\n", "line 14: unknown symbols !"),
        ("; 0\n#####\n#@$. \n#####\n", "line 2: .*border"),
    ],
)
def test_a_level_file_that_cannot_be_played_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "levels.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match=rf"env\.options\.levels.*{message}"):
        make({"levels": str(path)})


def test_the_levels_of_boxoban_are_read_and_played(shared: Path) -> None:
    path = shared / "data" / "boxoban" / "medium_valid_000.txt"
    if not path.is_file():
        pytest.skip("no Boxoban levels in `shared`")
    rng = random.Random(0)
    for seed in (0, 1, 500, 999):
        env = make({"levels": str(path)}, seed=seed)
        board = env.reset().text
        assert len(board.splitlines()) == 10
        assert board.count("X") + board.count("√") == 4
        env.step(env.random_response(rng))
        assert env.reset().text == board
    assert make({"levels": str(path)}, seed=10**9).reset().text
