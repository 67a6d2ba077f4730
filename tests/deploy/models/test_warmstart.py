"""Warm start: the model learns the format and not the skill, and fits its limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lamer.common.errors import BadInput
from lamer.common.records import Trial
from lamer.common.settings import RunSettings
from lamer.deploy.models.preparation import prepare_model
from lamer.deploy.models.warmstart import create_model, warm_start
from lamer.deploy.play.scripted import Encoder, play_scripted
from tests.deploy.models.pockets import DOORS, QUICK, SETTINGS


@dataclass(frozen=True)
class FirstDoor:
    """After one prompt: the chance of a valid action, and how it is shared among the doors."""

    prompt_tokens: int
    valid: float
    shares: np.ndarray

    @property
    def entropy(self) -> float:
        return float(-(self.shares * np.log(self.shares)).sum())


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_model(SETTINGS, tmp_path_factory.mktemp("cache")).path


@pytest.fixture(scope="module")
def played(doors: Path) -> tuple[Trial, ...]:
    return play_scripted(SETTINGS, doors, 300)


def chances(folder: Path, trials: tuple[Trial, ...]) -> Iterator[FirstDoor]:
    """The exact chance of every valid action, for each distinct play prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    encoder = Encoder.load(folder)
    actions = np.stack([encoder.encode(f"<action>{door}</action>")[:-1] for door in range(1, DOORS + 1)])
    prompts = {
        turn.completion.prompt_ids.tobytes(): turn.completion.prompt_ids
        for trial in trials
        for episode in trial.episodes
        for turn in episode.turns
    }
    for prompt in prompts.values():
        rows = np.concatenate([np.tile(prompt, (DOORS, 1)), actions], axis=1)
        with torch.no_grad():
            logprobs = model(torch.from_numpy(rows).long()).logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
        picked = logprobs.gather(-1, torch.from_numpy(actions).long()[..., None]).sum((1, 2)).exp().numpy()
        yield FirstDoor(len(prompt), float(picked.sum()), picked / picked.sum())


def test_at_temperature_1_more_than_99_in_100_actions_are_valid_and_every_door_is_as_likely(
    doors: Path, played: tuple[Trial, ...]
) -> None:
    found = list(chances(doors, played))
    assert len(found) > 100, "prompts of all three episodes"
    assert min(each.valid for each in found) > 0.99
    assert min(each.entropy for each in found) > 0.95 * math.log(DOORS), "whatever the history"


def test_the_pass_rates_of_the_warm_start_are_those_of_independent_guesses(
    doors: Path, played: tuple[Trial, ...]
) -> None:
    # With each door's chance within a few hundredths of 1/5 after every history, pass@3 is near 1 - (4/5)^3 = 0.488.
    found = list(chances(doors, played))
    best = max(float(each.shares.max()) * each.valid for each in found)
    worst = min(float(each.shares.min()) * each.valid for each in found)
    assert 1 - (1 - best) ** 3 - 0.488 < 0.12
    assert 0.488 - (1 - (1 - worst) ** 3) < 0.12
    mean = float(np.mean([1 - (1 - each.valid / DOORS) ** 3 for each in found]))
    assert mean == pytest.approx(0.488, abs=0.01)


def test_doors_stays_within_its_limits_of_parameters_and_tokens(doors: Path, played: tuple[Trial, ...]) -> None:
    model = AutoModelForCausalLM.from_pretrained(doors)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 600_000
    completions = [completion for trial in played for completion in trial.completions()]
    assert max(len(completion.prompt_ids) for completion in completions) <= 64
    reflections = [reflection.completion for trial in played for reflection in trial.reflections]
    assert max(len(completion.ids) for completion in reflections) <= 8


def test_scripted_play_is_whole_trials_of_valid_random_actions(played: tuple[Trial, ...]) -> None:
    assert all(trial.is_trainable for trial in played)
    assert all(turn.is_valid for trial in played for episode in trial.episodes for turn in episode.turns)
    assert all(reflection.is_valid for trial in played for reflection in trial.reflections)
    firsts = [trial.episodes[0].turns[0].action for trial in played]
    assert {firsts.count(str(door)) > 30 for door in range(1, DOORS + 1)} == {True}, "60 each on average"
    solved = np.mean([trial.solved_at is not None for trial in played])
    assert solved == pytest.approx(0.488, abs=0.1)


def test_scripted_play_is_the_same_for_the_same_settings(doors: Path, played: tuple[Trial, ...]) -> None:
    def actions(trials: tuple[Trial, ...]) -> list[str | None]:
        return [turn.action for trial in trials for episode in trial.episodes for turn in episode.turns]

    assert actions(play_scripted(SETTINGS, doors, 20)) == actions(played[:20])
    other = replace(SETTINGS, run=RunSettings(seed=1))
    assert actions(play_scripted(other, doors, 20)) != actions(played[:20])


def test_other_options_of_the_environment_are_played_in_turn_with_its_own(doors: Path) -> None:
    warmstart = replace(SETTINGS.model.warmstart, also=[{"doors": 7}, {"doors": 2}])
    mixed = replace(SETTINGS, model=replace(SETTINGS.model, warmstart=warmstart))
    counts = [json.loads(trial.task.env_config)["doors"] for trial in play_scripted(mixed, doors, 7)]
    assert counts == [DOORS, 7, 2, DOORS, 7, 2, DOORS]


def test_other_options_that_the_environment_does_not_have_are_refused_by_their_key(doors: Path) -> None:
    warmstart = replace(SETTINGS.model.warmstart, also=[{"dors": 7}])
    wrong = replace(SETTINGS, model=replace(SETTINGS.model, warmstart=warmstart))
    with pytest.raises(BadInput, match=r"model\.warmstart\.also = \{'dors': 7\}: env\.options\.dors.*doors"):
        play_scripted(wrong, doors, 1)


def test_a_prompt_too_long_to_be_played_is_no_example(tmp_path: Path) -> None:
    create_model(QUICK, tmp_path / "created")
    short = replace(QUICK, trial=replace(QUICK.trial, max_prompt_tokens=20))
    figures = {metric.name: metric.value for metric in warm_start(short, tmp_path / "created", tmp_path / "started")}
    assert figures["warmstart/dropped_examples"] > 0
    assert figures["warmstart/examples"] >= 20, "first prompts are short enough"


def test_a_folder_in_use_is_never_overwritten(doors: Path) -> None:
    before = sorted(path.name for path in doors.iterdir())
    with pytest.raises(BadInput, match="exists already"):
        create_model(QUICK, doors)
    with pytest.raises(BadInput, match="exists already"):
        warm_start(QUICK, doors, doors)
    assert sorted(path.name for path in doors.iterdir()) == before


def test_a_model_that_names_no_end_of_sequence_is_refused(doors: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((doors / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": None}))
    with pytest.raises(BadInput, match="names no end-of-sequence token"):
        Encoder.load(tmp_path)
