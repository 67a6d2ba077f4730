"""ALFWorld without its engine: commands in responses, rewards, prompts, which games there are, what is missing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.common.settings import Prompting
from lamer.envs import registry
from lamer.envs.alfworld.env import AlfworldEnv
from lamer.envs.alfworld.factory import AlfworldConfig
from lamer.envs.alfworld.games import UNSOLVABLE_FILE, find_games, require_engine
from lamer.envs.alfworld.parsing import goal_of, parse_command, parse_number, split_command
from lamer.envs.alfworld.prompts import AlfworldCompactStyle, AlfworldStyle, FullStyle
from lamer.envs.base import EnvironmentFault, PlayView, ReflectionView
from lamer.envs.memory import MemoryStep, PastAttempt
from tests.envs.alfworld.houses import DollsHouse, write_game

COMMANDS = ("go to desk 1", "look", "take mug 1 from desk 1")


def doll(style: AlfworldStyle | None = None) -> AlfworldEnv:
    return AlfworldEnv(DollsHouse(), style or FullStyle(), max_turns=10)


@pytest.mark.parametrize(
    ("response", "command"),
    [
        ("<action>look</action>", "look"),
        ("I think. <action> Take  mug 1\nfrom desk 1 </action>", "take mug 1 from desk 1"),
        ("<action>'look'</action>", "look"),
        ("<action>help</action>", None),  # not admissible
        ("<action>take mug 2 from desk 1</action>", None),
        ("<action>look</action><action>go to desk 1</action>", "look"),
        ("look", None),
        ("<action></action>", None),
    ],
)
def test_a_response_names_an_admissible_command_in_words_or_none(response: str, command: str | None) -> None:
    assert parse_command(response, COMMANDS) == command


@pytest.mark.parametrize(
    ("response", "command"),
    [
        ("<action>1</action>", "go to desk 1"),
        ("<action> 3 </action>", "take mug 1 from desk 1"),
        ("<action>0</action>", None),
        ("<action>4</action>", None),
        ("<action>-1</action>", None),
        ("<action>look</action>", None),
        ("<action>1 2</action>", None),
        ("2", None),
    ],
)
def test_a_number_names_a_command_of_the_list(response: str, command: str | None) -> None:
    assert parse_number(response, COMMANDS) == command


def test_a_command_is_split_into_what_it_does_and_to_what() -> None:
    assert split_command("go to side table 2") == ("go to", "side table 2")
    assert split_command("take mug 1 from desk 1") == ("take from desk 1", "mug 1")
    assert split_command("heat mug 1 with microwave 1") == ("", "heat mug 1 with microwave 1")


def test_compact_prompts_put_commands_that_differ_in_one_thing_on_one_line() -> None:
    commands = ("examine desk 1", "go to bed 1", "go to shelf 1", "inventory", "look", "take mug 1 from desk 1")
    commands += ("take pen 1 from desk 1",)
    assert AlfworldCompactStyle().situation("You arrive.", commands).splitlines() == [
        "You arrive.",
        "1 examine desk 1",
        "go to: 2 bed 1, 3 shelf 1",
        "4 inventory",
        "5 look",
        "take from desk 1: 6 mug 1, 7 pen 1",
        "1-7:",
    ]


def test_the_goal_is_what_the_first_observation_asks_for() -> None:
    assert goal_of("Welcome\n\nYou see a desk 1.\n\nYour task is to: put a mug in desk.") == "put a mug in desk"
    assert goal_of("no task") == "no task"


def test_the_goal_pays_ten_and_ends_the_episode_and_nothing_else_pays() -> None:
    env = doll()
    env.reset()
    first = env.step("<action>go to desk 1</action>")
    assert (first.action, first.reward, first.is_done) == ("go to desk 1", 0.0, False)
    last = env.step("<action>take mug 1 from desk 1</action>")
    assert (last.reward, last.is_done, last.is_solved) == (10.0, True, True)


def test_a_response_without_an_admissible_command_never_reaches_the_engine() -> None:
    house = DollsHouse()
    env = AlfworldEnv(house, FullStyle(), max_turns=10)
    before = env.reset()
    result = env.step("<action>take mug 1 from desk 1</action>")  # admissible at the desk only
    assert (result.action, result.reward, result.is_done) == (None, 0.0, False)
    assert result.observation.text == "Nothing happens."
    assert result.observation.anchor_state != before.anchor_state
    assert house.taken == []
    assert env.scene.commands == ("go to desk 1", "look")


def test_states_with_the_same_text_and_other_commands_are_other_anchor_states() -> None:
    env = doll()
    start = env.reset()
    env.step("<action>go to desk 1</action>")
    looked = env.step("<action>x</action>").observation
    env.reset()
    assert env.step("<action>x</action>").observation.text == looked.text
    assert env.step("<action>x</action>").observation.anchor_state != looked.anchor_state
    assert env.reset() == start


async def test_awaited_play_is_the_same_as_play_at_once() -> None:
    one, other = doll(), doll()
    assert await one.start() == other.reset()
    for response in ("<action>go to desk 1</action>", "nothing", "<action>take mug 1 from desk 1</action>"):
        assert await one.play(response) == other.step(response)


@pytest.mark.parametrize("style", [FullStyle(), AlfworldCompactStyle()])
def test_random_play_is_uniform_over_the_admissible_commands(style: AlfworldStyle) -> None:
    env = doll(style)
    env.reset()
    rng = random.Random(0)
    counts = dict.fromkeys(env.scene.commands, 0)
    for _ in range(400):
        command = env.parse(env.random_response(rng))
        assert command is not None
        counts[command] += 1
    assert min(counts.values()) > 150
    assert env.parse_reflection(env.random_reflection(rng)) in env.scene.commands


def test_an_episode_must_be_started_before_it_is_played() -> None:
    with pytest.raises(EnvironmentFault, match="no episode has been started"):
        doll().step("<action>look</action>")


def test_closing_an_environment_closes_its_house() -> None:
    house = DollsHouse()
    AlfworldEnv(house, FullStyle(), max_turns=10).close()
    assert house.is_closed


# ---- prompts -------------------------------------------------------------------------------------------------------


def play_view(env: AlfworldEnv, prompting: Prompting = Prompting.REACT) -> PlayView:
    """The second turn of the second attempt."""
    initial = env.reset().text
    result = env.step("<action>go to desk 1</action>" if isinstance(env._style, FullStyle) else "<action>1</action>")
    steps = [MemoryStep("go to desk 1", result.observation.text)]
    past = env.render_past([PastAttempt(0, (MemoryStep("look", "Nothing special."),), "go to the desk")])
    current = env.render_steps(steps, env.windows.playing)
    return PlayView(initial, result.observation.text, past, current, 1, 1, prompting)


def test_a_full_prompt_shows_the_house_past_attempts_this_one_and_every_admissible_command_in_this_order() -> None:
    env = doll()
    prompt = env.play_prompt(play_view(env))
    parts = [
        "Your task is to: take a mug.",
        "Attempt 1 failed.\nAction 1: look\nObservation 1: Nothing special.\nReflection on attempt 1: go to the desk",
        "Action 1: go to desk 1\nObservation 1: You arrive at desk 1.",
        "What you see now:\nYou arrive at desk 1.\n\n",
        "The admissible commands at present:\n'look',\n'take mug 1 from desk 1'\n",
        "<action>command</action>",
    ]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)
    assert "help" not in prompt
    assert "step by step" in prompt
    assert "step by step" not in env.play_prompt(play_view(env, Prompting.ACT))


def test_a_compact_prompt_is_the_goal_past_commands_the_observation_and_numbered_commands() -> None:
    env = doll(AlfworldCompactStyle())
    assert env.play_prompt(play_view(env)) == (
        "take a mug\nlook\ngo to the desk\ngo to desk 1\nYou arrive at desk 1.\n1 look\n2 take mug 1 from desk 1\n1-2:"
    )
    initial = env.reset().text
    first = env.play_prompt(PlayView(initial, initial, "", "", 0, 0))
    assert first == "take a mug\n1 go to desk 1\n2 look\n1-2:"


@pytest.mark.parametrize("style", [FullStyle(), AlfworldCompactStyle()])
def test_a_reflection_prompt_shows_the_failed_attempt_and_asks_for_a_remark(style: AlfworldStyle) -> None:
    env = doll(style)
    initial = env.reset().text
    current = env.render_steps([MemoryStep("look", "Nothing special.")], env.windows.reflecting)
    prompt = env.reflection_prompt(ReflectionView(initial, "", current, 0))
    assert prompt.index("take a mug") < prompt.index("look") < prompt.index("<remark>")


# ---- games and configuration ---------------------------------------------------------------------------------------


def test_a_split_has_the_games_of_the_wanted_types_that_have_both_files(tmp_path: Path) -> None:
    for trial in ("trial_1", "trial_2", "trial_3"):
        write_game(tmp_path, f"train/pick_and_place_simple-Mug-None-Shelf-1/{trial}")
    write_game(tmp_path, "train/pick_cool_then_place_in_recep-Mug-None-Shelf-1/trial_1")
    write_game(tmp_path, "train/pick_and_place_with_movable_recep-Mug-Pan-Shelf-1/trial_1")
    write_game(tmp_path, "train/pick_and_place_simple-AppleSliced-None-Shelf-1/trial_1")
    incomplete = write_game(tmp_path, "train/pick_and_place_simple-Key-None-Shelf-1/trial_1")
    (incomplete.folder / "initial_state.pddl").unlink()
    (tmp_path / UNSOLVABLE_FILE).write_text("train/pick_and_place_simple-Mug-None-Shelf-1/trial_3\n")
    found = {game.name.split("/", 1)[1] for game in find_games(str(tmp_path), "train", ("pick", "look"))}
    assert found == {f"pick_and_place_simple-Mug-None-Shelf-1/{trial}" for trial in ("trial_1", "trial_2")}
    (only,) = find_games(str(tmp_path), "train", ("cool",))
    assert only.folder.is_dir()


def test_the_order_of_games_mixes_them_and_does_not_depend_on_the_order_of_types(tmp_path: Path) -> None:
    for index in range(20):
        kind = "look_at_obj_in_light" if index % 2 else "pick_and_place_simple"
        write_game(tmp_path, f"train/{kind}-Mug-None-Shelf-1/trial_{index:02}")
    names = [game.name for game in find_games(str(tmp_path), "train", ("pick", "look"))]
    assert names == [game.name for game in find_games(str(tmp_path), "train", ("look", "pick"))]
    assert names != sorted(names)
    assert len({name.split("/")[1] for name in names[:8]}) == 2


def test_missing_games_and_types_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"alfworld: .* lacks train; run `lamer data fetch alfworld`") as missing:
        find_games(str(tmp_path), "train", ("pick",))
    assert missing.value.exit_code == 3
    write_game(tmp_path)
    with pytest.raises(Missing, match=r"no game of the types heat, look .*`lamer data fetch alfworld`"):
        find_games(str(tmp_path), "train", ("look", "heat"))


def test_a_missing_engine_is_named_with_what_to_run() -> None:
    with pytest.raises(Missing, match=r"alfworld can't be imported; run .*--no-deps alfworld==0\.4\.2"):
        require_engine(lambda name: None if name == "alfworld" else object())
    require_engine(lambda name: object())


def test_the_defaults_are_the_papers() -> None:
    config = registry.decode_config("alfworld", {})
    assert config == AlfworldConfig("", "train", ("pick", "look", "clean", "heat"), 10, "full")


@pytest.mark.parametrize("tasks", [[], ["pick", "pick"], ["fly"]])
def test_task_types_that_make_no_sense_are_refused(tasks: list[str]) -> None:
    with pytest.raises(BadInput, match=r"env\.options\.tasks"):
        registry.decode_config("alfworld", {"tasks": tasks})
