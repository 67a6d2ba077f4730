"""Doors: rules, anchor states over a trial, the size of prompts, scripted play, exact references."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.doors.env import DoorsEnv
from lamer.envs.doors.prompts import DoorsFullStyle
from lamer.envs.doors.references import doors_references
from lamer.envs.memory import MemoryStep, PastAttempt


def count_tokens(text: str) -> int:
    """Tokens of a small word-level tokenizer: tags, words, digits, marks and line breaks are one each."""
    return len(re.findall(r"</?\w+>|[A-Za-z]+|[0-9]|\n|[^\sA-Za-z0-9]", text))


def test_opening_the_prize_pays_ten_and_solves_the_episode() -> None:
    env = DoorsEnv(5, prize=3)
    env.reset()
    result = env.step("<action>3</action>")
    assert (result.action, result.reward, result.is_done, result.is_solved) == ("3", 10.0, True, True)


@pytest.mark.parametrize(("door", "hint"), [(4, "left"), (5, "left"), (2, "right"), (1, "right")])
def test_a_miss_pays_nothing_and_tells_the_side_of_the_prize(door: int, hint: str) -> None:
    env = DoorsEnv(5, prize=3)
    env.reset()
    result = env.step(f"I try <action> {door}\n</action>")
    assert (result.action, result.reward, result.is_done, result.is_solved) == (str(door), 0.0, True, False)
    assert result.observation.text == hint


@pytest.mark.parametrize(
    "response",
    [
        "",
        "3",
        "<action>three</action>",
        "<action>0</action>",
        "<action>6</action>",
        "<action>-3</action>",
        "<action>3",
        "<ACTION>3</ACTION>",
        "</action>3<action>",
        "<action>3.0</action>",
        "<action>1 3</action>",
        "<action>²</action>",
    ],
)
def test_a_response_without_a_door_fails_the_episode_and_reveals_nothing(response: str) -> None:
    env = DoorsEnv(5, prize=3)
    before = env.reset()
    result = env.step(response)
    assert (result.action, result.reward, result.is_done, result.is_solved) == (None, 0.0, True, False)
    assert result.observation.text not in ("left", "right")
    assert env.reset() == before


def test_the_anchor_state_is_the_doors_still_possible_given_the_whole_trial() -> None:
    env = DoorsEnv(7, prize=3)
    assert env.reset().anchor_state == "1,2,3,4,5,6,7"
    assert env.step("<action>5</action>").observation.anchor_state == "1,2,3,4"
    assert env.reset().anchor_state == "1,2,3,4"
    env.step("<action>6</action>")  # known to be empty: teaches nothing
    assert env.reset().anchor_state == "1,2,3,4"
    env.step("<action>2</action>")
    assert env.reset().anchor_state == "3,4"
    env.step("<action>1</action>")
    assert env.reset().anchor_state == "3,4"
    assert env.step("<action>3</action>").observation.anchor_state == "3"


def test_the_first_observation_of_an_episode_never_changes() -> None:
    env = DoorsEnv(5, prize=1)
    texts = []
    for door in (5, 3, 2):
        texts.append(env.reset().text)
        env.step(f"<action>{door}</action>")
    assert len(set(texts)) == 1


def late_views(env: DoorsEnv) -> tuple[PlayView, ReflectionView]:
    """The longest views of a third episode, with memory `both` and remarks of eight tokens."""
    remark = "left 2 left 2 left 2 left 2"
    attempts = [PastAttempt(index, (MemoryStep("3", "right"),), remark) for index in range(2)]
    past = env.render_past(attempts)
    initial = env.reset().text
    current = env.render_steps((MemoryStep("4", "left"),), env.windows.reflecting)
    play = PlayView(initial, initial, past=past, current="", episode=2, turn=0)
    return play, ReflectionView(initial, past=past, current=current, episode=2)


def test_the_prompts_of_a_late_episode_take_at_most_64_tokens_with_a_chat_template() -> None:
    env = DoorsEnv(7, prize=1)
    play, reflection = late_views(env)
    template = 10  # the marks of a chat turn and of the generation prompt
    assert count_tokens(env.play_prompt(play)) + template <= 64
    assert count_tokens(env.reflection_prompt(reflection)) + template <= 64


def test_prompts_show_rules_past_hints_remarks_and_the_answer_format() -> None:
    env = DoorsEnv(7, prize=1)
    play, reflection = late_views(env)
    assert "1 to 7" in env.play_prompt(play)
    assert env.play_prompt(play).count("3 right") == 2
    assert env.play_prompt(play).count("left 2 left 2 left 2 left 2") == 2
    assert "<action>door</action>" in env.play_prompt(play)
    assert "4 left" in env.reflection_prompt(reflection)
    assert "<remark>note</remark>" in env.reflection_prompt(reflection)


def test_full_prompts_tell_rules_openings_remarks_and_the_answer_format_in_sentences() -> None:
    env = DoorsEnv(7, prize=1, style=DoorsFullStyle(7))
    play, reflection = late_views(env)
    assert "numbered from 1 (left) to 7" in env.play_prompt(play)
    assert env.play_prompt(play).count("You opened door 3: the prize lies to the right of it.") == 2
    assert "Reflection on attempt 2: left 2" in env.play_prompt(play)
    assert "You opened door 4: the prize lies to the left of it." in env.reflection_prompt(reflection)
    assert "<remark>" in env.reflection_prompt(reflection)


def test_a_response_without_a_door_is_told_as_such_in_full_prompts() -> None:
    env = DoorsEnv(7, prize=1, style=DoorsFullStyle(7))
    assert env.render_steps((MemoryStep("invalid", "nothing"),), env.windows.past) == "You named no door."


def test_without_memory_every_episode_has_the_same_prompt() -> None:
    env = DoorsEnv(5, prize=1)
    prompts = set()
    for episode, door in enumerate((5, 3, 2)):
        initial = env.reset().text
        prompts.add(env.play_prompt(PlayView(initial, initial, past="", current="", episode=episode, turn=0)))
        env.step(f"<action>{door}</action>")
    assert len(prompts) == 1


def test_random_play_is_uniform_over_all_doors_whatever_is_known() -> None:
    env = DoorsEnv(5, prize=1)
    env.reset()
    env.step("<action>2</action>")  # only door 1 is possible
    rng = random.Random(0)
    counts = Counter(env.step(env.random_response(rng)).action for _ in range(5000))
    assert set(counts) == {"1", "2", "3", "4", "5"}
    assert all(900 < count < 1100 for count in counts.values())


def test_random_reflections_are_short_well_formed_and_say_everything_equally_often() -> None:
    env = DoorsEnv(5, prize=1)
    rng = random.Random(0)
    reflections = [env.random_reflection(rng) for _ in range(5000)]
    remarks = Counter(env.parse_reflection(reflection) for reflection in reflections)
    assert max(map(count_tokens, reflections)) <= 8
    assert set(remarks) == {f"{side} {door}" for side in ("left", "right") for door in range(1, 6)}
    assert all(400 < count < 600 for count in remarks.values())


def test_a_reflection_without_tags_is_none_and_a_long_one_is_cut() -> None:
    env = DoorsEnv(5, prize=1)
    assert env.parse_reflection("open the middle") is None
    assert env.parse_reflection("<remark> middle\n</remark>") == "middle"
    assert env.parse_reflection(f"<remark>   {'x' * 3000}</remark>") == "x" * 2000


@pytest.mark.parametrize(
    ("doors", "expected"),
    [
        (5, {"best policy": (0.2, 0.6, 1.0), "possible": (0.2, 0.52, 0.827), "independent": (0.2, 0.36, 0.488)}),
        (7, {"best": (0.143, 0.429, 1.0), "possible": (0.143, 0.388, 0.678), "independent": (0.143, 0.265, 0.37)}),
    ],
)
def test_references_are_the_figures_of_the_design(doors: int, expected: dict[str, tuple[float, ...]]) -> None:
    found = doors_references(doors, episodes=3)
    for name, pass_at in expected.items():
        (reference,) = [item for item in found if item.name.startswith(name)]
        assert reference.pass_at == pytest.approx(pass_at, abs=5e-4)


def test_the_best_policy_is_best_at_every_k_at_once() -> None:
    # A binary search tree of depth k holds 2^k - 1 doors, and the balanced one is full at every level.
    best = doors_references(12, episodes=4)[0]
    assert best.pass_at == pytest.approx((1 / 12, 3 / 12, 7 / 12, 1.0))


def test_scripted_random_play_matches_the_reference_of_independent_guesses() -> None:
    rng = random.Random(1)
    solved_within = [0, 0, 0]
    trials = 6000
    for seed in range(trials):
        env = DoorsEnv(5, prize=seed % 5 + 1)
        for episode in range(3):
            env.reset()
            if env.step(env.random_response(rng)).is_solved:
                for later in range(episode, 3):
                    solved_within[later] += 1
                break
    measured = [count / trials for count in solved_within]
    assert measured == pytest.approx(doors_references(5, 3)[2].pass_at, abs=0.03)
