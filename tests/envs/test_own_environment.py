"""The example of docs/environments.md as a user gets it: installed from the page, played, and trained on."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamer.common import config
from lamer.common.records import EpisodeStatus, Task, Trial
from lamer.deploy.cli import app
from lamer.deploy.models.preparation import prepare_model
from lamer.deploy.play.scripted import play_scripted
from lamer.deploy.run.configuration import read_settings
from lamer.envs import registry
from lamer.learner.measuring.intervals import wilson_interval
from tests.actors.parts import write_model
from tests.envs.installed import install
from tests.integration.in_process import train
from tests.integration.processes import start, updates

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
MODULE = "lamer_numbers"


def block(language: str) -> str:
    """The page's one block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example installed under its entry point, and its configuration beside it."""
    points = tomllib.loads(block("toml"))["project"]["entry-points"]["lamer.envs"]
    install(tmp_path, "\n".join(f"{name} = {value}" for name, value in points.items()), MODULE, block("python"))
    (tmp_path / "numbers.yaml").write_text(block("yaml"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(MODULE, None)


def test_the_example_is_complete_and_under_eighty_lines() -> None:
    assert len(block("python").splitlines()) < 80


def test_a_task_is_the_same_for_its_seed_and_starts_over_with_reset(site: Path) -> None:
    task = Task("numbers", registry.canonical_config("numbers", {}), 7)
    one, other = registry.make_env(task), registry.make_env(task)
    answers = [f"<action>{number}</action>" for number in (10, 5, 15)]
    assert one.reset() == other.reset()
    steps = [one.step(answer) for answer in answers]
    assert steps == [other.step(answer) for answer in answers]
    assert one.reset() == other.reset()
    assert steps[-1].is_done
    assert one.step("no idea").action is None


def test_scripted_trials_go_through_the_code_of_an_actor(site: Path) -> None:
    settings = config.load([site / "numbers.yaml"])
    trials = play_scripted(settings, write_model(site / "model"), 30)
    assert all(trial.is_trainable for trial in trials)
    assert all(turn.is_valid for trial in trials for episode in trial.episodes for turn in episode.turns)
    assert all(each.is_valid for trial in trials for each in trial.reflections)
    solved = [trial for trial in trials if trial.solved_at is not None]
    assert 0 < len(solved) < 30
    assert {rewards(trial) for trial in solved} == {10.0}
    later = next(trial for trial in trials if len(trial.episodes) == 2)
    assert later.episodes[0].status is EpisodeStatus.FAILED


def rewards(trial: Trial) -> float:
    return sum(episode.reward for episode in trial.episodes)


def test_it_is_played_by_name_in_the_terminal(site: Path) -> None:
    importlib.invalidate_caches()
    arguments = ["play", "numbers", "-c", str(site / "numbers.yaml"), "--policy", "random"]
    result = CliRunner().invoke(app, arguments, prog_name="lamer")
    assert result.exit_code == 0, result.stderr
    assert "Find a number from 1 to 5." in result.stdout
    assert "2 guesses left" in result.stdout


@pytest.mark.timeout(900)
def test_the_example_ends_above_the_untrained_model_with_the_base_for_any_environment(site: Path) -> None:
    """The page's configuration on one seed, with fewer tasks: at pass@2 the intervals are apart."""
    settings = read_settings([site / "numbers.yaml"], ["evaluation.tasks=200"])
    model = prepare_model(settings, site / "models").path
    before, after = asyncio.run(train(settings, model, site / "weights"))
    assert wilson_interval(after[1], 200).low > wilson_interval(before[1], 200).high, (before, after)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_trained_on_by_its_configuration(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    small = ("batch.updates=1", "model.warmstart.steps=150", "tracking.mlflow=false", "evaluation.tasks=0")
    process = start(["train", "-c", "numbers.yaml", "--name", "one", "--plain", *small], site, "train")
    try:
        assert process.wait(850.0) == 0, process.text
    finally:
        process.end()
    (line,) = updates(site / "runs" / "one")
    assert line.metrics["train/valid_actions"] > 0.3
    assert line.metrics["rollout/shortened_prompts"] == 0.0
