"""`lamer bench trainer`: the same gradient four ways, its report, and the trials it makes up or finds in a journal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lamer.common.config import load
from lamer.common.errors import BadInput, Missing
from lamer.common.settings import AdvantageSettings, CreditSettings, Settings
from lamer.deploy.bench.trainer.models import model_folder
from lamer.deploy.bench.trainer.plain import PlainModel, bare_rows, packed, padded, same
from lamer.deploy.bench.trainer.run import TrainerBenchOptions, run_trainer_bench
from lamer.deploy.bench.trainer.trials import TrialShape, made_up_trials, recorded_trials
from lamer.deploy.cli import app
from lamer.learner.credit.samples import Sample, make_samples
from lamer.learner.trainer.model.packing import pack
from lamer.learner.trainer.update import PolicyUpdater

SHAPE = TrialShape(groups=1, group_size=3, scale=0.03)
VOCABULARY = 512
CPU = torch.device("cpu")


def small() -> Settings:
    overrides = ["trial.max_prompt_tokens=200", "trial.max_response_tokens=50", "trial.max_reflection_tokens=50"]
    return load([], ["optimizer.pack_tokens=400", "trainer.device=cpu", *overrides])


def samples_of(shape: TrialShape) -> tuple[Sample, ...]:
    trials = made_up_trials(shape, VOCABULARY, 0)
    return make_samples(trials, 0, CreditSettings(), AdvantageSettings(), None)


def test_padded_and_packed_transformers_find_the_trainers_loss_and_gradient(tmp_path: Path) -> None:
    folder = model_folder("tiny", tmp_path, is_bfloat16=False, seed=1)
    updater = PolicyUpdater(small(), folder)
    trials = made_up_trials(SHAPE, VOCABULARY, 0)
    loss = updater.gradient(trials)
    ours = {name: value.grad.clone() for name, value in updater.parameters().items() if value.grad is not None}
    plain = PlainModel(folder, updater.parameters(), None, is_recomputed=False)
    samples = samples_of(SHAPE)
    for lay in (padded, packed):
        plain.forget()
        theirs = plain.gradient(lay(samples, 400, CPU), small().loss, small().loss.entropy)
        assert theirs == pytest.approx(loss, rel=1e-4)
        assert same(ours, plain.gradients()) < 1e-4
    plain.forget()  # two sequences in one row that see each other would be found out
    wrong = tuple(replace(rows, positions=None) for rows in packed(samples, 400, CPU))
    plain.gradient(wrong, small().loss, small().loss.entropy)
    assert same(ours, plain.gradients()) > 1e-2


def test_every_response_is_laid_out_once_and_no_row_is_over_the_limit() -> None:
    samples = samples_of(SHAPE)
    tokens = sum(len(sample.ids) for sample in samples)
    for lay in (padded, packed):
        rows = lay(samples, 400, CPU)
        assert sum(len(each.predicting) for each in rows) == tokens
        assert max(each.ids.numel() for each in rows) <= 400


def test_bare_rows_hold_as_many_tokens_and_rows_of_the_head() -> None:
    rows = list(bare_rows(1000, 300, 64, VOCABULARY, 256, CPU))
    assert sum(ids.numel() for ids, _ in rows) == 1000
    assert sum(len(where) for _, where in rows) == 300
    assert all(int(where.max()) < ids.numel() for ids, where in rows)


def test_made_up_prompts_begin_alike_unless_they_are_not_to_share() -> None:
    shared, apart = samples_of(SHAPE), samples_of(replace(SHAPE, sharing="none"))
    assert [len(each.prompt_ids) for each in shared] != []
    flat = [sum(len(each.ids) for each in pack(some, 10_000)) for some in (shared, apart)]
    full = [sum(len(each.prompt_ids) + len(each.ids) - 1 for each in some) for some in (shared, apart)]
    assert flat[0] < 0.6 * full[0]
    assert flat[1] > 0.95 * full[1]


def test_the_report_has_the_keys_that_are_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "trainer.json"
    arguments = ["bench", "trainer", "--model", "tiny", "--groups", "1", "--group-size", "2", "--lengths", "0.03"]
    result = CliRunner().invoke(
        app, [*arguments, "--rounds", "1", "--output", str(output), "optimizer.pack_tokens=400", "trainer.device=cpu"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    ours, ratios = found["ours"], found["ratios"]
    flat, new = found["work"]["flat_tokens"], ours["seconds"]
    assert ours["flat_tokens_per_second"] == pytest.approx(flat / new)
    assert ours["effective_tokens_per_second"] == pytest.approx(found["work"]["effective_tokens"] / new)
    assert ours["mfu"] is None
    assert set(ours["phases"]) == {"packing", "scoring", "forward", "backward", "optimizer", "publishing"}
    assert min(ours["phases"][name] for name in ("packing", "forward", "backward", "optimizer", "publishing")) > 0
    assert ratios["over_padded"] == pytest.approx(found["others"]["padded"]["seconds"] / ours["gradient_seconds"])
    assert ratios["new_over_repeated_shapes"] == pytest.approx(ours["repeated_seconds"] / new)
    assert min(ratios["over_packed_transformers"], ratios["of_bare_layers"]) > 0
    assert found["others"]["packed_transformers"]["gradient_difference"] < 1e-4
    assert (found["model"], found["sharing"], found["rounds"]) == ("tiny", "paper", 1)
    assert "torch" in found["versions"]


def test_the_trials_of_a_run_can_be_trained_again(tmp_path: Path) -> None:
    run = Path(__file__).resolve().parents[2] / "data" / "run-of-ddffd24" / "runs" / "before"
    batches = recorded_trials(run, 2)
    assert len(batches) == 2
    settings = load([run / "config.yaml"], ["trainer.device=cpu"])
    options = TrainerBenchOptions(str(run.parent.parent / "start"), run, SHAPE, settings, rounds=1, others=())
    report = run_trainer_bench(options, lambda _: None)
    assert report.work.source == "the journal of before"
    assert report.ours.flat_tokens_per_second > 0
    assert report.ratios.over_padded is None
    with pytest.raises(BadInput, match="--rounds 1"):
        run_trainer_bench(replace(options, rounds=5), lambda _: None)
    with pytest.raises(Missing, match="no journal"):
        recorded_trials(tmp_path, 1)


def test_what_can_not_be_measured_is_refused() -> None:
    with pytest.raises(BadInput, match="'wordy' is none of paper, none"):
        TrialShape(sharing="wordy")
    with pytest.raises(BadInput, match="neither a model folder nor one of tiny, pocket, small, llama"):
        model_folder("gpt", Path(), is_bfloat16=False, seed=0)
    options = TrainerBenchOptions("tiny", None, SHAPE, load([], ["optimizer.pack_tokens=16", "trainer.device=cpu"]))
    with pytest.raises(BadInput, match=r"optimizer\.pack_tokens 16 is under the longest"):
        run_trainer_bench(options, lambda _: None)
    with pytest.raises(BadInput, match="--alone"):
        replace(options, settings=load([], ["advantage.estimator=ppo"]))
    assert np.isclose(TrialShape().scale, 1.0)
