"""`lamer inspect`: trials of a journal as a list, and one as it was played."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from lamer.common.codec import encode_trial
from lamer.common.errors import BadInput, Missing
from lamer.common.records import Trial
from lamer.common.settings import EnvSettings, ModelSettings, PocketSettings, Settings, WarmstartSettings
from lamer.deploy.models.warmstart import create_model
from lamer.deploy.play.scripted import play_scripted
from lamer.deploy.run.inspect import find_renderer, inspect_run, trial_list, trial_view
from lamer.learner.journal.entries import TrialEntry
from lamer.learner.journal.reader import JournalReader, TrialFilter
from lamer.learner.journal.writer import Journal

SETTINGS = Settings(
    model=ModelSettings(
        pocket=PocketSettings(hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16, context=256),
        warmstart=WarmstartSettings(trials=20),
    ),
    env=EnvSettings("doors", {"doors": 3}),
)
STEPS = 2
TRIALS = 12


def entry(trial: Trial) -> TrialEntry:
    return TrialEntry(
        trial.trial_id,
        trial.group_id,
        trial.slot,
        trial.purpose,
        trial.oldest_version,
        trial.response_tokens,
        trial.solved_at,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the weights of a model."""
    run = tmp_path_factory.mktemp("runs") / "doors-001"
    create_model(SETTINGS, run / "weights" / "v1")
    return run


@pytest.fixture(scope="module")
def trials(folder: Path) -> tuple[Trial, ...]:
    return play_scripted(SETTINGS, folder / "weights" / "v1", TRIALS)


@pytest.fixture
async def run(folder: Path, trials: tuple[Trial, ...]) -> Path:
    """The run folder with a journal: updates 1 and 2 trained on five trials each, two are stored."""
    (folder / "journal.db").unlink(missing_ok=True)
    journal = Journal(folder / "journal.db", lambda _: None, lambda failure: None)
    for trial in trials:
        journal.admit(trial.group_id, 0)
        journal.store(entry(trial), encode_trial(trial))
    for step in range(1, STEPS + 1):
        journal.claim(step, [trial.trial_id for trial in trials[5 * (step - 1) : 5 * step]])
    await journal.close()
    return folder


def shown(run: Path, trial: str | None = None, **options: object) -> str:
    screen = io.StringIO()
    inspect_run(run, trial, console=Console(file=screen, width=160), **options)  # type: ignore[arg-type]
    return screen.getvalue()


def test_the_list_names_every_trial_with_its_update_and_outcome(run: Path, trials: tuple[Trial, ...]) -> None:
    text = shown(run)
    assert f"{TRIALS} of {TRIALS} trials" in text
    for trial in trials:
        short = f" train/{trial.group_id}/{trial.slot} "
        line = next(line for line in text.splitlines() if short in line)
        assert line.split()[-1] == ("solved" if trial.solved_at is not None else "failed")
        assert f" {trial.response_tokens} " in line


def test_the_list_can_be_of_one_update_of_solved_trials_and_short(run: Path, trials: tuple[Trial, ...]) -> None:
    second = shown(run, step=2)
    assert [f" train/{trial.group_id}/" in second for trial in trials] == [False] * 5 + [True] * 5 + [False] * 2
    solved = sum(trial.solved_at is not None for trial in trials)
    assert f"{solved} of {solved} trials" in shown(run, is_solved=True)
    assert f"{TRIALS - solved} of {TRIALS - solved} trials" in shown(run, is_solved=False)
    assert f"3 of {TRIALS} trials" in shown(run, limit=3)


def test_the_list_fits_a_terminal_of_eighty_columns(run: Path) -> None:
    screen = io.StringIO()
    inspect_run(run, console=Console(file=screen, width=80))
    assert "…" not in screen.getvalue()
    assert "stored" in screen.getvalue()


def test_a_trial_shows_its_task_prompts_responses_actions_and_remarks(run: Path, trials: tuple[Trial, ...]) -> None:
    trial = max(trials, key=lambda each: len(each.episodes))
    assert len(trial.episodes) == 3
    text = shown(run, trial.trial_id)
    assert "Doors 1 to 3 hide one prize." in text
    assert f"seed {trial.task.seed}" in text
    for episode in trial.episodes:
        assert f"episode {episode.index + 1} {episode.status.value}" in text
        assert f"<action>{episode.turns[0].action}</action>" in text
    for reflection in trial.reflections:
        assert f"kept in memory {reflection.text}" in text
    assert "v0, stop" in text


def test_the_end_of_an_id_is_enough_and_ages_count_from_the_version_trained_from(
    run: Path, trials: tuple[Trial, ...]
) -> None:
    assert trials[7].trial_id in shown(run, "train/7/0")
    assert "update 2, age 1" in shown(run, "train/7/0")


def test_what_is_not_there_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no journal at"):
        inspect_run(tmp_path)
    with pytest.raises(Missing, match="holds no trial train/99/0"):
        inspect_run(run, "train/99/0")
    with pytest.raises(Missing, match="update 9"):
        inspect_run(run, step=9)
    with pytest.raises(BadInput, match="--limit must be at least 1, got 0"):
        inspect_run(run, limit=0)


def test_text_that_looks_like_markup_is_shown_as_it_is(run: Path, trials: tuple[Trial, ...]) -> None:
    # Rich would swallow "[red]"; memory may hold anything that a policy wrote.
    trial = next(each for each in trials if each.reflections)
    first = trial.reflections[0]
    odd = type(first)(first.completion, "[red]look[/red]", True)
    changed = type(trial)(
        **{name: getattr(trial, name) for name in trial.__struct_fields__ if name != "reflections"},
        reflections=(odd, *trial.reflections[1:]),
    )
    reader = JournalReader(run / "journal.db")
    row, _ = reader.trial(trial.trial_id)
    from lamer.deploy.run.inspect import trial_view

    screen = io.StringIO()
    Console(file=screen, width=160).print(trial_view(row, changed, find_renderer(run)))
    assert "[red]look[/red]" in screen.getvalue()


def test_rows_come_with_the_latest_update_first(run: Path) -> None:
    steps = [row.step for row in JournalReader(run / "journal.db").rows(TrialFilter(limit=100))]
    assert steps == [2] * 5 + [1] * 5 + [None] * 2


def test_a_run_without_any_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no tokenizer to decode"):
        find_renderer(tmp_path)


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("not a database, but long enough to be read as one" * 40)
    with pytest.raises(Missing, match="is no journal"):
        inspect_run(tmp_path)


def test_a_configured_model_serves_for_decoding_before_any_weights_were_written(folder: Path, tmp_path: Path) -> None:
    from lamer.common import config

    settings = replace(SETTINGS, model=replace(SETTINGS.model, path=str(folder / "weights" / "v1")))
    (tmp_path / "config.yaml").write_text(config.to_yaml(settings))
    assert find_renderer(tmp_path).vocab_size == find_renderer(folder).vocab_size


def test_shortened_prompts_are_told_of_a_trial_and_of_each_prompt(run: Path, trials: tuple[Trial, ...]) -> None:
    (row, one), renderer = JournalReader(run / "journal.db").trial("train/0/0"), find_renderer(run)
    first, *others = one.episodes
    turn = first.turns[0]
    cut = msgspec.structs.replace(turn, completion=msgspec.structs.replace(turn.completion, left_out_tokens=41))
    episode = msgspec.structs.replace(first, turns=(cut, *first.turns[1:]))
    shortened = msgspec.structs.replace(one, episodes=(episode, *others))
    screen = io.StringIO()
    Console(file=screen, width=160).print(trial_view(row, shortened, renderer), trial_list([row], [shortened], 1))
    text, asked = screen.getvalue(), sum(1 for _ in one.completions())
    assert f"{asked}, 1 of them shortened by 41 tokens in all" in text
    assert f"{len(turn.completion.prompt_ids)} (41 left out) + " in text
    assert f"{asked}, none shortened" in shown(run, "train/0/0")
