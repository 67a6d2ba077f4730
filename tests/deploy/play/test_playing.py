"""`lamer play`: a person, or scripted play, in the model's place."""

from __future__ import annotations

import asyncio
import io
import random
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from lamer.actors.policy import RequestKind
from lamer.actors.trial import TrialLimits, play_trial
from lamer.common.records import EpisodeStatus, MemoryMode, Task
from lamer.common.settings import EnvSettings, Settings, TrialSettings
from lamer.deploy.cli import app
from lamer.deploy.play.playing import play_here
from lamer.deploy.play.scripted import play_scripted
from lamer.deploy.play.terminal import Voice, cut_after, in_tags, read_keyboard
from lamer.envs import registry
from tests.actors.parts import ScriptedPolicy, lease, plain_renderer, write_model
from tests.envs.installed import VAULT, install

DOORS = Settings(env=EnvSettings("doors"))
NO_MODEL = Voice.load(None, use_chat_template=True)
STOP = ("</action>",)


def lamer(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=typed, prog_name="lamer")


def played(settings: Settings, seed: int, *lines: str) -> tuple[str, list[EpisodeStatus]]:
    """What a person who types these lines sees, and how the episodes ended."""
    screen, answers = io.StringIO(), iter(lines)

    def read(mark: str) -> str:
        screen.write(mark)
        return next(answers)

    trial = play_here(settings, seed, NO_MODEL, Console(file=screen, width=100), read)
    return screen.getvalue(), [] if trial is None else [episode.status for episode in trial.episodes]


def test_a_person_goes_through_episodes_and_reflections_to_success() -> None:
    """Seed 1 of five doors: the prize is behind door 2."""
    text, statuses = played(DOORS, 1, "3", "it lies to the left", "<action>2</action>")
    assert statuses == [EpisodeStatus.FAILED, EpisodeStatus.SOLVED]
    expected = [
        "episode 1, turn 1",
        "action> ",
        "sent as <action>3</action>",
        "action 3, reward 0",
        "episode 1: failed after 1 turn, reward 0",
        "reflection on episode 1",
        "3 left",
        "kept in memory: it lies to the left",
        "episode 2, turn 1",
        "it lies to the left",
        "action 2, reward 10",
        "doors, seed 1: solved in episode 2",
    ]
    position = 0
    for line in expected:
        assert line in text[position:], (line, text)
        position = text.index(line, position) + len(line)


async def prompts_of_an_actor(settings: Settings, answers: list[str | Exception]) -> list[str]:
    """What a model is sent that gives these answers, as text."""
    task = Task(settings.env.name, registry.canonical_config(settings.env.name, settings.env.options), 4)
    policy, limits = ScriptedPolicy(answers), TrialLimits(1, 2**30)
    await play_trial(
        lease(MemoryMode.BOTH, 2, task=task), registry.make_env(task), policy, plain_renderer(), limits, "a"
    )
    first, second = policy.prompts(RequestKind.PLAY)
    return [first, *policy.prompts(RequestKind.REFLECT), second]


@pytest.mark.parametrize("name", ["minesweeper", "sokoban"])
async def test_the_prompts_shown_are_the_ones_that_an_actor_sends(name: str) -> None:
    env = registry.make_env(Task(name, registry.canonical_config(name, {}), 4))
    rng = random.Random(1)
    answers = [env.random_response(rng), env.random_reflection(rng), env.random_response(rng)]
    sent = await prompts_of_an_actor(Settings(env=EnvSettings(name)), list(answers))
    settings = Settings(env=EnvSettings(name), trial=TrialSettings(episodes=2, max_turns=1))
    text, _ = await asyncio.to_thread(played, settings, 4, *answers)
    for prompt in sent:
        assert prompt.rstrip("\n") in text


def test_an_empty_line_is_asked_again_and_an_answer_without_sense_is_invalid() -> None:
    text, statuses = played(
        Settings(env=EnvSettings("doors"), trial=TrialSettings(episodes=1)), 1, "", "  ", "the middle one"
    )
    assert text.count("action> ") == 3
    assert "no valid action, reward 0" in text
    assert statuses == [EpisodeStatus.FAILED]


def test_tags_are_put_around_an_answer_that_has_none() -> None:
    assert in_tags(" up, left ", STOP) == "<action>up, left</action>"
    assert in_tags("I think <action>up</action>", STOP) == "I think <action>up</action>"
    assert in_tags("up", ()) == "up"
    assert in_tags("learned", ("</remark>",)) == "<remark>learned</remark>"


def test_an_answer_ends_where_a_server_would_stop_it() -> None:
    assert cut_after("<action>up</action> or down</action>", STOP) == "<action>up</action>"
    assert cut_after("<action>up", STOP) == "<action>up"


def test_from_the_command_line_the_end_of_input_is_a_quiet_end() -> None:
    result = lamer("play", "doors", "--seed", "1", typed="3\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "reflection on episode 1" in result.stdout
    assert "end of input" in result.stdout


def test_scripted_play_needs_nobody_and_is_the_same_for_the_same_seed() -> None:
    one, other = (lamer("play", "minesweeper", "trial.episodes=2", "--policy", "random", "--seed", "5") for _ in "ab")
    assert one.exit_code == 0
    assert one.stdout == other.stdout
    assert "> <action>" in one.stdout
    assert "minesweeper, seed 5: " in one.stdout


def test_tokens_are_shown_with_a_models_tokenizer_and_template_and_prompts_are_shortened(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    arguments = ("play", "sokoban", "--policy", "random", "--model", str(model), "--show", "tokens")
    result = lamer(*arguments, "trial.max_prompt_tokens=1e6")
    assert result.exit_code == 2, "a whole number is asked for"
    result = lamer(*arguments, "trial.max_prompt_tokens=1500", "trial.episodes=1", "--seed", "1")
    assert result.exit_code == 0, result.stderr
    assert "<|user|>" in result.stdout
    assert " tokens in the prompt, " in result.stdout
    assert "prompts shortened by" in result.stdout


def test_scripted_play_for_a_warm_start_is_shortened_like_an_actors(tmp_path: Path) -> None:
    model, settings = write_model(tmp_path / "model"), Settings(env=EnvSettings("sokoban"))
    whole, cut = (play_scripted(settings, model, 2, shorten_to=budget) for budget in (0, 1600))
    assert max(len(each.prompt_ids) for trial in whole for each in trial.completions()) > 1600
    assert max(len(each.prompt_ids) for trial in cut for each in trial.completions()) <= 1600
    assert any(trial.left_out_tokens for trial in cut)
    assert [trial.solved_at for trial in cut] == [trial.solved_at for trial in whole]


def test_what_can_not_be_played_is_one_line(tmp_path: Path) -> None:
    for arguments, code, message in (
        (("play", "dors"), 2, "did you mean 'doors'?"),
        (("play", "doors", "env.options.dors=3"), 2, "env.options.dors"),
        (("play", "doors", "--policy", "robot"), 2, "it must be human or random"),
        (("play", "doors", "--show", "tokens"), 2, "name its folder with --model"),
        (("play", "doors", "--model", str(tmp_path / "nowhere")), 3, "nowhere"),
        (("play", "doors", "-c", "nowhere.yaml"), 3, "nowhere.yaml"),
    ):
        result = lamer(*arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
        assert message in result.stderr


def test_an_environment_without_its_data_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "vault = vault_package:FACTORY", "vault_package", VAULT)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = lamer("play", "vault", f"env.options.data={tmp_path / 'data'}")
    sys.modules.pop("vault_package", None)
    assert (result.exit_code, "run `lamer data fetch vault`" in result.stderr) == (3, True)


def test_ctrl_c_at_the_keyboard_is_an_interrupt_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(mark: str) -> str:
        signal.raise_signal(signal.SIGINT)
        return "never"

    monkeypatch.setattr("builtins.input", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        read_keyboard("> ")
    assert signal.getsignal(signal.SIGINT) is before
    assert lamer("play", "doors").exit_code == 130
