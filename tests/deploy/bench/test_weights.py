"""The weights benchmark on the embedded engine: what it counts, and what becomes of responses. Never its seconds."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from lamer.common.errors import BadInput, Missing, RunFailed
from lamer.common.records import Completion, FinishReason, VersionSpan
from lamer.deploy.bench.checkpoints import checkpoints_like
from lamer.deploy.bench.saturation import Answered, Progress, Round, make_work
from lamer.deploy.bench.weights import (
    MODES,
    ModeRounds,
    Update,
    WeightsBenchOptions,
    lost_seconds,
    mode_figures,
    run_weights_bench,
)
from lamer.deploy.bench.weights_report import Spread
from tests.learner.builders import write_model


def answered(*spans: VersionSpan, asked: int = 4, sent: float = 0.0, arrived: float = 9.0) -> Answered:
    """A response of 4 tokens that was sent under version 1 and arrived while 3 was loaded."""
    completion = Completion(
        np.array([1], np.int32), np.arange(4, dtype=np.int32), np.zeros(4, np.float32), spans, FinishReason.LENGTH
    )
    return Answered(completion, asked, sent, arrived, first_version=1, last_version=3)


@pytest.mark.parametrize(
    ("spans", "is_right"),
    [
        ((VersionSpan(1, 0, 4),), True),
        ((VersionSpan(1, 0, 2), VersionSpan(3, 2, 4)), True),
        ((VersionSpan(2, 0, 2), VersionSpan(1, 2, 4)), False),
        ((VersionSpan(2, 0, 2), VersionSpan(2, 2, 4)), False),
        ((VersionSpan(0, 0, 2), VersionSpan(1, 2, 4)), False),
        ((VersionSpan(1, 0, 2), VersionSpan(4, 2, 4)), False),
    ],
    ids=["one", "two that rise", "falling", "not rising", "older than when it was sent", "newer than any loaded"],
)
def test_versions_of_a_response_rise_and_were_held_while_it_was_under_way(
    spans: tuple[VersionSpan, ...], is_right: bool
) -> None:
    assert answered(*spans).has_right_spans is is_right


def test_seconds_lost_are_those_beyond_the_tokens_at_the_rate_without_updates() -> None:
    """Baselines: 16 tokens in 4 s, 4 a second. 8 tokens then take 2 s; 5 s with two updates are 1.5 s lost for each."""
    baseline = Round((answered(VersionSpan(1, 0, 4)),) * 2, 2.0)
    assert lost_seconds(Round((answered(VersionSpan(1, 0, 4)),) * 2, 5.0), (baseline, baseline), 2) == 1.5


def test_a_mode_is_shown_by_medians_against_a_bare_load() -> None:
    split = answered(VersionSpan(1, 0, 2), VersionSpan(2, 2, 4), sent=0.0, arrived=3.5)
    short = answered(VersionSpan(1, 0, 4), asked=5, sent=0.0, arrived=2.0)
    updates = [Update(2, 0.5, 1.0, 0.2), Update(3, 3.0, 4.0, 0.6), Update(4, 4.0, 5.0, 0.3)]
    rounds = ModeRounds()
    rounds.add(Round((split, short), 5.0), updates, lost=0.5)
    figures = mode_figures("retract", rounds, bare_load=0.2)
    assert figures.pause_seconds == Spread(median=0.3, least=0.2, most=0.6, count=3)
    assert (figures.over_bare_load, figures.lost_over_bare_load) == pytest.approx((1.5, 2.5))
    assert (figures.responses, figures.whole, figures.wrong_spans) == (2, 1, 0)
    assert (figures.in_flight, figures.split) == (2, 1), "both over the first update, none over another"
    assert figures.is_within_bound


def test_the_work_is_the_same_each_time_and_ends_with_the_shortest_responses() -> None:
    work = make_work(streams=3, responses=20, tokens=40, seed=1)
    assert work == make_work(3, 20, 40, seed=1) != make_work(3, 20, 40, seed=2)
    assert sorted(work[-3:], reverse=True) == list(work[-3:]) == sorted(work)[2::-1]
    assert min(work) >= 20
    assert max(work) <= 60


def test_the_second_checkpoint_is_the_first_with_every_weight_changed(tmp_path: Path) -> None:
    first = write_model(tmp_path / "model")
    checkpoints = checkpoints_like(first, tmp_path)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in checkpoints.folders)
    assert checkpoints.folders[0] == first
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        changed = tensor.to(torch.bfloat16) != theirs[name].to(torch.bfloat16)
        assert bool((changed | (tensor == 0)).all()), name
    assert checkpoints.parameters == sum(tensor.numel() for tensor in ours.values())
    with pytest.raises(Missing, match="no model folder"):
        checkpoints_like(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vllm"}, "'vllm'"),
        ({"modes": ("retract", "stop")}, "got stop"),
        ({"modes": ()}, "got none"),
        ({"sizes": ("7b",)}, "got 7b"),
        ({"streams": 0}, "streams=0"),
    ],
)
def test_options_that_cannot_be_run_are_refused_with_their_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        WeightsBenchOptions(**options)  # type: ignore[arg-type]


async def test_responses_survive_updates_in_each_mode_with_right_versions(tmp_path: Path) -> None:
    output, notes = tmp_path / "figures" / "weights.json", []
    options = WeightsBenchOptions(sizes=("pocket",), updates=2, rounds=1, round_seconds=2.0, output=output)
    report = await run_weights_bench(options, notes.append)
    (model,) = report.models
    assert [figures.mode for figures in model.modes] == list(MODES)
    for figures in model.modes:
        assert figures.updates == 2
        assert figures.whole == figures.responses >= 8
        assert figures.wrong_spans == 0
    split = {figures.mode: figures.split for figures in model.modes}
    assert min(split["in_place"], split["retract"], split["abort"]) > 0
    assert split["wait"] == 0, "running requests end before the load"
    assert model.bare_load_seconds.count == 2 * (1 + 2 * len(MODES))
    assert json.loads(output.read_text())["models"][0]["model"] == "pocket"
    text = io.StringIO()
    report.print(Console(file=text, width=200))
    assert all(mode in text.getvalue() for mode in MODES)
    assert len(notes) == 1 + len(MODES)


async def test_a_share_of_the_work_is_reached_by_answers_however_long_they_take() -> None:
    progress = Progress([10, 20, 30])
    third, half = (asyncio.ensure_future(progress.reached(share)) for share in (1 / 3, 1 / 2))
    await progress.answered(10)
    await asyncio.sleep(0)
    assert not third.done()
    await progress.answered(10)
    await asyncio.wait_for(third, 60.0)
    assert not half.done()
    await progress.answered(10)
    await asyncio.wait_for(half, 60.0)


async def test_work_that_ends_before_its_updates_is_an_error_that_says_what_to_do() -> None:
    options = WeightsBenchOptions(
        sizes=("pocket",), modes=("retract",), updates=400, rounds=1, streams=2, round_seconds=0.2
    )
    with pytest.raises(RunFailed, match=r"take longer rounds"):
        await run_weights_bench(options, lambda _: None)
