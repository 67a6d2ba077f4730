"""ALFWorld's text games: SPLIT/TASK/TRIAL/{initial_state.pddl, traj_data.json}.

Addresses: releases 0.2.2 and 0.4.2 of alfworld/alfworld on GitHub. Sizes and hashes are those that several public
repositories record for them. Of each game the three archives hold one file each: its annotations, its initial state,
and the compiled game, of which only the mark "solvable" is read: games are compiled anew. A game that comes without one
of its two files, with a movable receptacle or sliced objects in its task, or unsolvable, is not one of the 3,553 + 140
+ 134 that ALFWorld plays, and is left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from lamer.common.errors import BadInput
from lamer.envs.datasets.arrival import Member
from lamer.envs.datasets.definition import Chosen, Dataset, Examined, FileState, Source
from lamer.envs.datasets.ledger import Entry, Ledger, hash_tree

STATE_FILE, ANNOTATIONS_FILE, COMPILED_FILE = "initial_state.pddl", "traj_data.json", "game.tw-pddl"
FILES = (STATE_FILE, ANNOTATIONS_FILE)
MOST_BYTES = 64 << 20

_RELEASES = "https://github.com/alfworld/alfworld/releases/download/"
_GAME_FILE = re.compile(
    rf"(?:.*/)?(train|valid_seen|valid_unseen)/([^/]+/[^/]+)/({re.escape(STATE_FILE)}|{ANNOTATIONS_FILE}|{COMPILED_FILE})"
)
StructT = TypeVar("StructT", bound=msgspec.Struct)
_UNPLAYED_TASK = re.compile("movable|Sliced")


@dataclass(frozen=True, slots=True)
class Split:
    """A split: games that ALFWorld plays, and the `hash_tree` of their initial states where we could compute it."""

    name: str
    games: int
    states_sha256: str = ""


SPLITS = (
    Split("train", 3553, "70600d3c395ba4e656e70e04aa79f288d6ecd3252756255e2e992c8a8375e307"),
    Split("valid_seen", 140),
    Split("valid_unseen", 134),
)


class _Annotations(msgspec.Struct):
    """What must stand in `traj_data.json`."""

    task_type: str
    pddl_params: msgspec.Raw
    turk_annotations: msgspec.Raw


class _Compiled(msgspec.Struct):
    """The one entry of a compiled game that is read here."""

    solvable: bool = False


@dataclass(slots=True)
class _Games:
    """Games by (split, "TASK/TRIAL") as they arrive: the files seen of each, and the marks of compiled games."""

    files: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    solvable: dict[tuple[str, str], bool] = field(default_factory=dict)

    def reason_against(self, game: tuple[str, str]) -> str:
        """Why a game is left out, "" if it is kept."""
        lacking = [name for name in FILES if name not in self.files[game]]
        if _UNPLAYED_TASK.search(game[1]):
            return "with movable receptacles or sliced objects"
        if lacking:
            return f"without {' and '.join(lacking)}"
        if self.solvable and not self.solvable.get(game, False):
            return "not marked solvable"
        return ""


class AlfWorld(Dataset):
    """Three splits of games."""

    name = "alfworld"
    sources = (
        Source(
            "json_2.1.1_json.zip",
            (f"{_RELEASES}0.2.2/json_2.1.1_json.zip",),
            72_018_818,
            "25171f16e20ad7b048c47275c45b0babf3aa1cbab29cec97387922350a9844bc",
        ),
        Source(
            "json_2.1.1_pddl.zip",
            (f"{_RELEASES}0.2.2/json_2.1.1_pddl.zip",),
            34_881_784,
            "913942ebed06659ea0da2f8122512d98bc6add30d84961ca803132d8fbcad585",
        ),
        Source(
            "json_2.1.3_tw-pddl.zip",
            (f"{_RELEASES}0.4.2/json_2.1.3_tw-pddl.zip",),
            36_507_267,
            "5df77ea759f2211a4106082839ddbbb790f1ba4e7d097ed732cf453f72aa36cf",
        ),
    )
    expected = f"{{{','.join(split.name for split in SPLITS)}}}/TASK/TRIAL/{{{','.join(FILES)}}}"

    def choose(self, members: Iterable[Member], staging: Path) -> Chosen:
        """The two files of each game that has both."""
        games = _Games()
        for member in members:
            match = _GAME_FILE.fullmatch(member.path.as_posix())
            if match is not None:
                _take(member, (match[1], match[2]), match[3], staging, games)
        kept: list[PurePosixPath] = []
        left_out: Counter[str] = Counter()
        for game in sorted(games.files):
            if reason := games.reason_against(game):
                left_out[reason] += 1
            else:
                kept.extend(PurePosixPath(*game, name) for name in FILES)
        return Chosen(tuple(kept), tuple(f"{count:,} games left out: {why}" for why, count in left_out.items()))

    def settle(self, folder: Path, chosen: Chosen, ledger: Ledger) -> Ledger:
        """Hash the splits that got games."""
        entries: dict[str, Entry] = {}
        for split in {file.parts[0] for file in chosen.files}:
            names = _files_of(folder / split, FILES)
            size = sum((folder / split / name).stat().st_size for name in names)
            entries[split] = Entry(hash_tree(folder / split, names), size)
        return ledger.with_entries(entries)

    def examine(self, folder: Path, ledger: Ledger) -> tuple[Examined, ...]:
        """One line a split."""
        return tuple(_examine(split, folder, ledger) for split in SPLITS)

    def wanted(self, folder: Path, ledger: Ledger) -> tuple[Source, ...]:
        """All three archives, unless every split has all of its games."""
        is_whole = all(len(games(folder / split.name)) >= split.games for split in SPLITS)
        return () if is_whole else self.sources


def games(split_folder: Path) -> tuple[str, ...]:
    """Every game of a split that has both of its files, as "TASK/TRIAL", sorted."""
    found = (path.parent for path in split_folder.glob(f"*/*/{STATE_FILE}"))
    return tuple(sorted(str(game.relative_to(split_folder)) for game in found if (game / ANNOTATIONS_FILE).is_file()))


def _files_of(split_folder: Path, names: Iterable[str]) -> list[str]:
    return [f"{game}/{name}" for game in games(split_folder) for name in names]


def _take(member: Member, game: tuple[str, str], name: str, staging: Path, games: _Games) -> None:
    """Write a game's file, or note what its compiled form says."""
    if name == COMPILED_FILE:
        games.solvable[game] = _decode(member, member.data(MOST_BYTES), _Compiled).solvable
        return
    games.files.setdefault(game, set()).add(name)
    if _UNPLAYED_TASK.search(game[1]):
        return
    content = member.data(MOST_BYTES)
    if name == ANNOTATIONS_FILE:
        _decode(member, content, _Annotations)
    elif b"(define" not in content:
        raise BadInput(f"{member.path} in {member.origin} is no PDDL problem: it has no (define ...)")
    target = staging.joinpath(*game, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _decode(member: Member, content: bytes, kind: type[StructT]) -> StructT:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{member.path} in {member.origin} can't be used: {error}") from error


def _examine(split: Split, folder: Path, ledger: Ledger) -> Examined:
    place = folder / split.name
    names = _files_of(place, FILES)
    count = len(names) // len(FILES)
    if not count:
        return Examined(split.name, FileState.MISSING, note=f"none of {split.games:,} games")
    size = sum((place / name).stat().st_size for name in names)
    found, entry = hash_tree(place, names), ledger.entries.get(split.name)
    is_whole = count >= split.games
    note = f"{count:,} games" if is_whole else f"{count:,} of {split.games:,} games"
    if entry is not None and entry.sha256 != found:
        return Examined(split.name, FileState.DAMAGED, size, found, f"{note}, changed since they arrived")
    states = hash_tree(place, _files_of(place, (STATE_FILE,))) if is_whole and split.states_sha256 else ""
    if states and states == split.states_sha256:
        return Examined(split.name, FileState.OFFICIAL, size, found, f"{note}, the official initial states")
    state = FileState.KEPT if entry is not None else FileState.UNRECORDED
    return Examined(split.name, state, size, found, note)
