"""Taking in files at hand: what is chosen, under which names, what is refused, what is recorded and told afterwards."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.envs.datasets.arrival import members
from lamer.envs.datasets.definition import FileState
from lamer.envs.datasets.filling import find, place
from lamer.envs.datasets.ledger import LEDGER_FILE, Ledger
from tests.envs.archives import (
    ANNOTATIONS,
    ATTRIBUTES,
    INSTRUCTIONS,
    PRODUCTS,
    STATE,
    game,
    write_files,
    write_tar,
    write_zip,
)

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
ALFWORLD, WEBSHOP = find("alfworld"), find("webshop")
GAME = "pick_and_place_simple-Mug-None-Shelf-1/trial_1"


def files_in(folder: Path) -> set[str]:
    """What lies in a dataset's folder, without its ledger and its lock."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {LEDGER_FILE, ".lock"}


def states(dataset: str, folder: Path) -> dict[str, FileState]:
    return {part.name: part.state for part in find(dataset).examine(folder, Ledger.read(folder))}


# ---- safe archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../../x", "a/../../x", "a\\..\\x", "C:/x"])
def test_a_path_that_leaves_the_folder_makes_an_archive_unusable(tmp_path: Path, name: str) -> None:
    for archive in (
        write_zip(tmp_path / "a.zip", {**game("train"), name: b"x"}),
        write_tar(tmp_path / "a.tar.xz", {**game("train"), name: b"x"}),
    ):
        with pytest.raises(BadInput, match="would leave the folder"):
            place(ALFWORLD, tmp_path / "data", [archive])
        assert files_in(tmp_path / "data") == set(), "the good members before it were not kept either"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_make_an_archive_unusable(tmp_path: Path, kind: bytes) -> None:
    link = f"json_2.1.1/train/{GAME}/initial_state.pddl"
    archive = write_tar(tmp_path / "a.tar.gz", game("valid_seen"), {link: kind})
    with pytest.raises(BadInput, match=r"initial_state.pddl in it is no plain file"):
        place(ALFWORLD, tmp_path / "data", [archive])
    assert files_in(tmp_path / "data") == set()


def test_a_link_in_a_zip_makes_it_unusable(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", game("train"), {"items_shuffle_1000.json": "/etc/passwd"})
    with pytest.raises(BadInput, match="no plain file"):
        place(WEBSHOP, tmp_path / "data", [archive])


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz", "a.tar.gz", "a.tar"])
def test_a_broken_archive_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive at all" * 100)
    with pytest.raises(BadInput, match=f"{name} can't be read as an archive"):
        place(ALFWORLD, tmp_path / "data", [tmp_path / name])


def test_an_archive_that_ends_early_is_one_error(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar.xz", game("train"))
    whole.write_bytes(whole.read_bytes()[:150])
    with pytest.raises(BadInput, match=r"a.tar.xz"):
        place(ALFWORLD, tmp_path / "data", [whole])


def test_archives_inside_a_folder_are_opened(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_zip(tmp_path / "in" / "deep" / "a.zip", {"inside.txt": b"1"})
    (tmp_path / "in" / "beside.txt").write_bytes(b"2")
    assert [(str(member.path), member.data(10)) for member in members(tmp_path / "in")] == [
        ("beside.txt", b"2"),
        ("inside.txt", b"1"),
    ]


def test_a_member_longer_than_it_may_be_is_refused(tmp_path: Path) -> None:
    (member,) = members(write_files(tmp_path / "in", {"a.json": b"x" * 11}))
    with pytest.raises(BadInput, match="longer than 10 bytes"):
        member.data(10)
    with pytest.raises(BadInput, match="longer than 10 bytes"):
        member.write(tmp_path / "out", 10)


# ---- webshop -------------------------------------------------------------------------------------------------------


def test_files_of_a_shop_are_placed_under_the_names_that_the_environment_knows(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    at_hand = {
        "sub/items_shuffle_1000.rebuilt.json.gz": gzip.compress(PRODUCTS),
        "items_ins_v2_1000.json": ATTRIBUTES,
        "items_human_ins.subset13.json": INSTRUCTIONS,
        "README.md": b"not for us",
    }
    filled = place(WEBSHOP, folder, [write_files(tmp_path / "in", at_hand)])
    assert files_in(folder) == {"items_shuffle_1000.json.gz", "items_ins_v2_1000.json", "items_human_ins.json"}
    assert gzip.decompress((folder / "items_shuffle_1000.json.gz").read_bytes()) == PRODUCTS
    assert filled.notes == (
        "items_shuffle_1000.rebuilt.json.gz was taken for items_shuffle_1000.json",
        "items_human_ins.subset13.json was taken for items_human_ins.json",
    )
    assert set(states("webshop", folder).values()) == {FileState.KEPT}


def test_the_official_name_goes_before_a_variant_and_replaces_the_other_form(tmp_path: Path) -> None:
    folder, other = tmp_path / "data", json.dumps([{"asin": "B3"}]).encode()
    place(WEBSHOP, folder, [write_files(tmp_path / "one", {"items_shuffle_1000.json.gz": gzip.compress(other)})])
    both = {"items_shuffle_1000.json": PRODUCTS, "items_shuffle_1000.rebuilt.json.gz": gzip.compress(other)}
    place(WEBSHOP, folder, [write_files(tmp_path / "two", both)])
    assert files_in(folder) == {"items_shuffle_1000.json"}
    assert (folder / "items_shuffle_1000.json").read_bytes() == PRODUCTS


def test_single_files_and_compressed_ones_are_taken(tmp_path: Path) -> None:
    packed = tmp_path / "items_ins_v2_1000.json.gz"
    packed.write_bytes(gzip.compress(ATTRIBUTES))
    place(WEBSHOP, tmp_path / "data", [packed])
    assert (tmp_path / "data" / "items_ins_v2_1000.json").read_bytes() == ATTRIBUTES


@pytest.mark.parametrize("content", [b"{", b'{"B1": {}}', b"[1, 2]"])
def test_a_file_that_is_not_what_its_name_says_changes_nothing(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "data"
    place(WEBSHOP, folder, [write_files(tmp_path / "good", {"items_shuffle_1000.json": PRODUCTS})])
    bad = {"items_human_ins.json": INSTRUCTIONS, "items_shuffle_1000.json": content}
    with pytest.raises(BadInput, match=r"is not items_shuffle_1000.json"):
        place(WEBSHOP, folder, [write_files(tmp_path / "bad", bad)])
    assert (folder / "items_shuffle_1000.json").read_bytes() == PRODUCTS
    assert files_in(folder) == {"items_shuffle_1000.json"}


def test_an_examination_tells_missing_absent_unrecorded_kept_and_damaged_apart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert states("webshop", folder) == {
        "items_shuffle_1000.json": FileState.MISSING,
        "items_ins_v2_1000.json": FileState.MISSING,
        "items_human_ins.json": FileState.ABSENT,
    }
    place(WEBSHOP, folder, [write_files(tmp_path / "in", {"items_shuffle_1000.json": PRODUCTS})])
    write_files(folder, {"items_ins_v2_1000.json": ATTRIBUTES, "items_human_ins.json": b"["})
    assert list(states("webshop", folder).values()) == [FileState.KEPT, FileState.UNRECORDED, FileState.DAMAGED]
    (folder / "items_shuffle_1000.json").write_bytes(PRODUCTS.replace(b"mug", b"mud"))
    assert states("webshop", folder)["items_shuffle_1000.json"] is FileState.DAMAGED


# ---- alfworld ------------------------------------------------------------------------------------------------------


def test_games_are_placed_by_split_task_and_trial_with_their_two_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    others = {f"json_2.1.1/train/{GAME}/images.txt": b"1", "json_2.1.1/valid_train/a/b/traj_data.json": b"{}"}
    archive = write_tar(tmp_path / "a.tar.xz", {**game("train"), **game("valid_unseen"), **others})
    filled = place(ALFWORLD, folder, [archive])
    expected = {
        f"{split}/{GAME}/{name}"
        for split in ("train", "valid_unseen")
        for name in ("initial_state.pddl", "traj_data.json")
    }
    assert files_in(folder) == expected == {str(file) for file in filled.files}
    assert states("alfworld", folder) == {
        "train": FileState.KEPT,
        "valid_seen": FileState.MISSING,
        "valid_unseen": FileState.KEPT,
    }


def test_the_official_archives_are_joined_and_only_games_that_are_played_are_kept(tmp_path: Path) -> None:
    """As published: annotations in one archive, initial states in another, the mark "solvable" in a third."""
    tasks = {
        "pick-Mug-None-Shelf-1/t1": (True, "kept"),
        "pick-Mug-None-Shelf-1/t2": (False, "unsolvable"),
        "pick-Mug-None-Shelf-1/t3": (None, "never compiled"),
        "pick_and_place_with_movable_recep-Mug-Pan-Shelf-1/t1": (True, "movable"),
        "pick-AppleSliced-None-Shelf-1/t1": (True, "sliced"),
    }
    at = "json_2.1.1/valid_seen"
    annotations = {f"{at}/{task}/traj_data.json": ANNOTATIONS for task in (*tasks, "pick-Mug-None-Shelf-2/t1")}
    compiled = {
        f"{at}/{task}/game.tw-pddl": json.dumps({"pddl_problem": "", "solvable": mark}).encode()
        for task, (mark, _) in tasks.items()
        if mark is not None
    }
    archives = [
        write_zip(tmp_path / "json_2.1.1_json.zip", annotations),
        write_zip(tmp_path / "json_2.1.1_pddl.zip", {f"{at}/{task}/initial_state.pddl": STATE for task in tasks}),
        write_zip(tmp_path / "json_2.1.3_tw-pddl.zip", compiled),
    ]
    filled = place(ALFWORLD, tmp_path / "data", archives)
    assert {str(file.parent) for file in filled.files} == {"valid_seen/pick-Mug-None-Shelf-1/t1"}
    assert sorted(filled.notes) == [
        "1 games left out: without initial_state.pddl",
        "2 games left out: not marked solvable",
        "2 games left out: with movable receptacles or sliced objects",
    ]


def test_one_half_of_the_games_says_what_is_lacking(tmp_path: Path) -> None:
    half = {name: content for name, content in game("train").items() if name.endswith(".json")}
    with pytest.raises(BadInput, match=r"1 games left out: without initial_state.pddl"):
        place(ALFWORLD, tmp_path / "data", [write_zip(tmp_path / "a.zip", half)])


@pytest.mark.parametrize(("name", "content"), [("traj_data.json", b"{}"), ("initial_state.pddl", b"\x00\x01")])
def test_a_games_file_that_can_not_be_what_it_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    files = {**game("train"), f"json_2.1.1/train/{GAME}/{name}": content}
    with pytest.raises(BadInput, match=name):
        place(ALFWORLD, tmp_path / "data", [write_zip(tmp_path / "a.zip", files)])


def test_more_games_join_those_that_are_there_and_a_changed_one_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    place(ALFWORLD, folder, [write_zip(tmp_path / "a.zip", game("train"))])
    place(ALFWORLD, folder, [write_files(tmp_path / "in", game("train", trial="trial_2"))])
    (part, *_) = ALFWORLD.examine(folder, Ledger.read(folder))
    assert (part.state, part.note) == (FileState.KEPT, "2 of 3,553 games")
    (folder / "train" / GAME / "initial_state.pddl").write_bytes(STATE + b" ")
    assert states("alfworld", folder)["train"] is FileState.DAMAGED


# ---- both ----------------------------------------------------------------------------------------------------------


def test_files_that_belong_to_nothing_are_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing there belongs to webshop.*items_ins_v2_1000.json"):
        place(WEBSHOP, tmp_path / "data", [write_files(tmp_path / "in", {"x.json": b"{}"})])
    with pytest.raises(Missing, match="there is no folder or file"):
        place(WEBSHOP, tmp_path / "data", [tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="there are alfworld, webshop"):
        find("webshops")


@pytest.mark.skipif(not (SHARED / "webshop").is_dir(), reason="the WebShop files of ../shared/data are not here")
def test_the_real_shop_is_taken_in_and_its_attributes_are_the_official_file(tmp_path: Path) -> None:
    place(WEBSHOP, tmp_path, [SHARED / "webshop"])
    found = {part.name: (part.state, part.note) for part in WEBSHOP.examine(tmp_path, Ledger.read(tmp_path))}
    assert found == {
        "items_shuffle_1000.json": (FileState.KEPT, "1,000 products"),
        "items_ins_v2_1000.json": (FileState.OFFICIAL, "1,000 products with attributes"),
        "items_human_ins.json": (FileState.KEPT, "13 products with instructions"),
    }


@pytest.mark.skipif(not (SHARED / "alfworld").is_dir(), reason="the ALFWorld games of ../shared/data are not here")
def test_the_real_small_archive_gives_thirty_six_games(tmp_path: Path) -> None:
    place(ALFWORLD, tmp_path, [SHARED / "alfworld" / "alfworld_mini_36.tar.xz"])
    notes = [part.note for part in ALFWORLD.examine(tmp_path, Ledger.read(tmp_path))]
    assert notes == ["12 of 3,553 games", "12 of 140 games", "12 of 134 games"]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "alfworld").is_dir(), reason="the ALFWorld games of ../shared/data are not here")
def test_the_real_training_games_are_the_official_ones(tmp_path: Path) -> None:
    place(ALFWORLD, tmp_path, [SHARED / "alfworld" / "alfworld_train_3553.tar.xz"])
    (part, *_) = ALFWORLD.examine(tmp_path, Ledger.read(tmp_path))
    assert (part.state, part.note) == (FileState.OFFICIAL, "3,553 games, the official initial states")
