"""Rank 0 announces, the others follow: steps that all give up, one that a single rank fails at, and the end."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import pytest
import torch

from lamer.common.errors import BadInput
from lamer.common.records import VersionSpan
from lamer.learner.trainer.following import LeadingUpdater, dismiss, follow
from lamer.learner.trainer.ranks import group
from lamer.learner.trainer.ranks.group import Placement, RankLost, meet
from lamer.learner.trainer.update import PolicyUpdater
from tests.learner.builders import completion, play_batch, trial, turn, write_model
from tests.learner.trainer.ranks.training import FRESH, SECONDS
from tests.learner.trainer.test_update import SETTINGS

LOST = 7


def be(scenario: str, model: str, placement: Placement) -> None:
    """One of two ranks."""
    torch.set_num_threads(1)
    if scenario == "fails alone":
        group._AGREEING = datetime.timedelta(seconds=3)
    ranks = meet(placement, torch.device("cpu"))
    try:
        if placement.rank == 0:
            lead(scenario, Path(model), ranks)
        else:
            fail_alone(scenario)
            follow(ranks)
    except RankLost:
        raise SystemExit(LOST) from None


def fail_alone(scenario: str) -> None:
    def fail(*_: object) -> None:
        raise BadInput("what rank 0 does not find")

    if scenario == "fails alone":
        PolicyUpdater.update = fail


def lead(scenario: str, model: Path, ranks: group.Ranks) -> None:
    updater = LeadingUpdater(SETTINGS, model, ranks)
    if scenario == "all give up":
        foreign = completion([10, 11], [5000, 22], [VersionSpan(0, 0, 2)], -2.0)
        odd = [trial([[turn(1.0, "x", foreign)]], group=0, slot=slot) for slot in range(2)]
        with pytest.raises(BadInput, match="do not fit the vocabulary"):
            updater.update(1, odd)
        updater = LeadingUpdater(SETTINGS, model, ranks)
    updater.update(1, play_batch(0))
    assert updater.version == 1
    dismiss(ranks)


def exit_codes(scenario: str, folder: Path) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    model = str(write_model(folder / "model"))
    processes = [
        FRESH.Process(target=be, args=(scenario, model, Placement(rank, 2, address, SECONDS))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2 * SECONDS)
        process.kill()
    return [process.exitcode for process in processes]


def test_what_every_rank_finds_is_given_up_by_all_and_they_go_on(tmp_path: Path) -> None:
    assert exit_codes("all give up", tmp_path) == [0, 0]


def test_what_one_rank_alone_fails_at_ends_all(tmp_path: Path) -> None:
    assert exit_codes("fails alone", tmp_path) == [LOST, LOST]
