"""The model of a run is made once, by what defines it, or is the configured folder."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.common.errors import Missing
from lamer.common.records import MemoryMode
from lamer.common.settings import EnvSettings, ModelSettings, RunSettings, Settings, WarmstartSettings
from lamer.deploy.models.folders import check_model
from lamer.deploy.models.preparation import default_cache, model_key, prepare_model
from lamer.deploy.models.warmstart import create_model
from tests.deploy.models.pockets import QUICK, SETTINGS, SMALL


def test_a_second_run_finds_the_model_that_the_first_made(tmp_path: Path) -> None:
    first = prepare_model(QUICK, tmp_path)
    before = (first.path / "model.safetensors").stat()
    second = prepare_model(QUICK, tmp_path)
    after = (second.path / "model.safetensors").stat()
    assert second == first
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    names = [metric.name for metric in first.metrics]
    assert names[:3] == ["model/parameters", "model/vocabulary", "warmstart/loss"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"], "nothing temporary stays"


@pytest.mark.parametrize(
    "changed",
    [
        replace(QUICK, run=RunSettings(seed=7)),
        replace(QUICK, env=EnvSettings("doors", {"doors": 7})),
        replace(QUICK, trial=replace(QUICK.trial, memory=MemoryMode.NONE)),
        replace(QUICK, model=replace(QUICK.model, pocket=replace(SMALL, layers=2))),
        replace(QUICK, model=replace(QUICK.model, warmstart=replace(QUICK.model.warmstart, also=[{"doors": 7}]))),
    ],
)
def test_what_defines_the_model_defines_its_key(changed: Settings) -> None:
    assert model_key(changed) != model_key(QUICK)
    assert model_key(replace(changed, run=replace(changed.run, name="other"))) == model_key(changed), "a name does not"


def test_options_left_at_their_defaults_and_written_out_are_the_same_model() -> None:
    assert model_key(replace(QUICK, env=EnvSettings("doors", {}))) == model_key(QUICK)


def test_two_processes_at_once_get_the_same_whole_model(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        asked = [processes.submit(prepare_model, QUICK, tmp_path) for _ in range(2)]
        found = {prepared.result(timeout=100).path for prepared in asked}
    assert len(found) == 1
    check_model(found.pop())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"]


def test_without_steps_the_model_is_the_created_one(tmp_path: Path) -> None:
    settings = replace(QUICK, model=replace(QUICK.model, warmstart=WarmstartSettings(steps=0, trials=20)))
    prepared = prepare_model(settings, tmp_path)
    check_model(prepared.path)
    assert [metric.name for metric in prepared.metrics] == ["model/parameters", "model/vocabulary"]


def test_a_configured_folder_is_used_as_it_is(tmp_path: Path) -> None:
    configured, cache = tmp_path / "configured", tmp_path / "cache"
    create_model(QUICK, configured)
    prepared = prepare_model(replace(QUICK, model=ModelSettings(path=str(configured))), cache)
    assert prepared.path == configured.resolve()
    assert prepared.metrics == ()
    assert not cache.exists()


def test_a_configured_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nowhere is not there"):
        prepare_model(replace(QUICK, model=ModelSettings(path=str(tmp_path / "nowhere"))), tmp_path)


def test_models_are_cached_beside_the_folder_of_runs(tmp_path: Path) -> None:
    settings = replace(SETTINGS, run=RunSettings(directory=str(tmp_path / "runs")))
    assert default_cache(settings) == tmp_path / ".cache" / "lamer" / "models"
