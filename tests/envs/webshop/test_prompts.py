"""Prompts and memory of the shop: what they hold, how long they are, what the reference's looks like."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lamer.actors.memory import AttemptMemory, Memory
from lamer.common.records import MemoryMode, Task
from lamer.common.settings import Prompting
from lamer.envs import registry
from lamer.envs.base import PlayView, ReflectionView
from lamer.envs.memory import MemoryStep
from lamer.envs.webshop.actions import click
from lamer.envs.webshop.compact import LETTERS, WebshopCompactStyle, suggested_searches
from lamer.envs.webshop.env import WebshopEnv
from lamer.envs.webshop.prompts import WINDOWS, FullStyle, Scene
from lamer.envs.webshop.session import Page, Visit
from lamer.envs.webshop.shop import load_split


def make(folder: Path, seed: int = 0, **options: object) -> WebshopEnv:
    """The environment of a task of the shop in `folder`; three goals of the hand-made shop evaluate."""
    config = registry.canonical_config("webshop", {"data": str(folder), "evaluation_goals": 3, **options})
    env = registry.make_env(Task("webshop", config, seed))
    assert isinstance(env, WebshopEnv)
    return env


def lamp_env(folder: Path, **options: object) -> WebshopEnv:
    """The first task that asks for the desk lamp."""
    found = (make(folder, seed, **options) for seed in range(20))
    return next(env for env in found if env.goal.product.asin == "B0DESKLAMP")


def ask(env: WebshopEnv, page: str, past: str = "", current: str = "", prompting: Prompting = Prompting.REACT) -> str:
    return env.play_prompt(PlayView("", page, past, current, episode=0, turn=0, prompting=prompting))


def test_a_full_prompt_holds_the_request_the_page_and_every_action(shop_folder: Path) -> None:
    env = make(shop_folder)
    prompt = ask(env, env.reset().text)
    assert env.goal.text in prompt
    assert "The page now:\n'Search'" in prompt
    assert "What you can do here:\nsearch[words]\n\n" in prompt
    assert "step by step" in prompt
    results = env.step("<action>search[cedar lamp]</action>").observation.text
    prompt = ask(env, results)
    assert results in prompt
    assert "click[back to search]\nclick[b0desklamp]\nclick[b0floorlmp]\n" in prompt
    assert "search[words]\n" not in prompt.partition("What you can do here:")[2].partition("Choose")[0]


def test_chosen_options_stand_beside_the_page_which_does_not_show_them(shop_folder: Path) -> None:
    env = make(shop_folder)
    for action in ("search[cedar lamp]", "click[b0desklamp]", "click[small]", "click[sky blue]"):
        page = env.step(f"<action>{action}</action>").observation.text
    assert "'Buy Now'\nChosen: size: small, color: sky blue\n" in ask(env, page)


def test_act_prompts_ask_for_the_action_alone(shop_folder: Path) -> None:
    env = make(shop_folder)
    prompt = ask(env, env.reset().text, prompting=Prompting.ACT)
    assert "step by step" not in prompt
    assert "<action>search[words]</action>" in prompt


def test_memory_in_play_leaves_out_the_page_that_stands_in_full_below(shop_folder: Path) -> None:
    env = make(shop_folder)
    env.reset()
    attempt = AttemptMemory(env)
    for action in ("search[cedar lamp]", "click[b0desklamp]", "nonsense"):
        attempt.add(env.step(f"<action>{action}</action>"))
    lines = attempt.for_playing().splitlines()
    assert lines[0] == "Action 1: search[cedar lamp]"
    assert lines[1].startswith("Observation 1: 'Back to Search' [SEP] 'Page 1 (Total results: 2)'")
    assert lines[4:] == ["Action 3: invalid", "Observation 3: (the page now, in full below)"]
    assert attempt.for_reflecting().splitlines()[5].startswith("Observation 3: 'Back to Search' [SEP] '< Prev'")


def test_past_attempts_keep_three_steps_of_six_texts_and_the_reflection(shop_folder: Path) -> None:
    env = make(shop_folder)
    env.reset()
    attempt, memory = AttemptMemory(env), Memory(env, MemoryMode.BOTH)
    for action in ("search[cedar lamp]", "click[b0desklamp]", "click[small]", "click[buy now]"):
        attempt.add(env.step(f"<action>{action}</action>"))
    memory.add(attempt, "Choose a color.")
    past = memory.past().splitlines()
    assert past[0] == "Attempt 1 failed."
    assert past[1] == "Action 2: click[b0desklamp]"
    assert past[2].endswith("'large | tall' [SEP] 'color' ... (9 more)")
    assert past[-2:] == ["Observation 4: 'Thank you for shopping with us!'", "Reflection on attempt 1: Choose a color."]
    view = ReflectionView("'Search'", "", attempt.for_reflecting(), 0)
    prompt = env.reflection_prompt(view)
    assert env.goal.text in prompt
    assert attempt.for_reflecting() in prompt
    assert "<remark>" in prompt


def test_steps_are_shown_as_the_reference_shows_them(shared: Path) -> None:
    # On purpose different: the reference says "... (0 more)" after a page of exactly as many texts as are shown.
    cases = json.loads((shared / "golden" / "memory_format.json").read_text())["cases"]
    compared, style = 0, FullStyle()
    for case in cases:
        records = case["inputs"]["records"]
        if case["inputs"]["env"] != "webshop" or any(record["dones"] for record in records[:-1]):
            continue
        steps = [MemoryStep(record["action"], record["text_obs"]) for record in records]
        for key, window in (("reflect_current", WINDOWS.reflecting), ("past", WINDOWS.past)):
            assert style.steps(steps, window) == case["expected"][key].replace(" ... (0 more)", ""), case["id"]
        # In play the last page stands in full in the prompt; the steps before it are the reference's.
        ours, theirs = (
            style.steps(steps, WINDOWS.playing),
            case["expected"]["play_current"].replace(" ... (0 more)", ""),
        )
        assert ours.rpartition("\nObservation ")[0] == theirs.rpartition("\nObservation ")[0], case["id"]
        compared += 1
    assert compared >= 3


def test_actions_are_parsed_as_the_reference_does_where_they_are_actions(shared: Path, shop_folder: Path) -> None:
    # The reference takes any text between the tags for an action, in any case, and leaves to the shop what is none.
    cases = json.loads((shared / "golden" / "action_parsing.json").read_text())["environments"]["webshop"]["play"]
    none = {"search[a] click[b]", "think[x-wide [x] [x] blue]", ""}
    for case in cases:
        raw, expected = case["inputs"]["raw"], case["expected"]
        action = FullStyle().parse(raw)
        if not expected["valid"] or expected["action"] in none or "<Action>" in raw:
            assert action is None, case["id"]
        else:
            assert str(action) == expected["action"], case["id"]


def test_remarks_are_parsed_as_everywhere(shop_folder: Path) -> None:
    env = make(shop_folder)
    assert env.parse_reflection("So. <remark> Choose a size. </remark>") == "Choose a size."
    assert env.parse_reflection("<remark>Choose") is None


@pytest.mark.parametrize("layout", ["full", "compact"])
def test_random_play_is_legal_and_uses_every_kind_of_action(shop_folder: Path, layout: str) -> None:
    rng, seen = random.Random(0), set()
    for seed in range(7):
        env = make(shop_folder, seed, prompt=layout)
        env.reset()
        for _ in range(60):
            response = env.random_response(rng)
            result = env.step(response)
            assert result.action is not None, response
            seen.add(result.action)
            if result.is_done:
                env.reset()
            assert env.parse_reflection(env.random_reflection(rng)) is not None
    assert {"click[buy now]", "click[b0desklamp]", "click[sky blue]", "click[features]", "click[< prev]"} <= seen
    assert any(action.startswith("search[") for action in seen)


def test_compact_pages_name_choices_by_letter(shop_folder: Path) -> None:
    env = lamp_env(shop_folder, prompt="compact")
    assert env.reset().text == (
        "a search dimmable easy install desk lamps\nb search dimmable easy install\nc search desk lamps"
    )
    result = env.step("<action>c</action>")
    assert result.action == "search[desk lamps]"
    assert result.observation.text.splitlines()[0] == "a cedar desk lamp $19"
    assert env.step("<action>z</action>").action is None
    page = env.step("So: <action> A </action>").observation.text
    assert page.splitlines() == [
        "cedar desk lamp $19",
        "a size small",
        "b size large | tall",
        "c color sky blue",
        "d color coal black",
        "e buy now",
        "f features",
        "g description",
        "h < prev",
        "i back to search",
    ]
    assert "chosen coal black" in env.step("<action>d</action>").observation.text
    assert env.step("<action>click[reviews]</action>").action == "click[reviews]", "written out, unlisted"
    prompt = ask(env, env.step("<action>click[< prev]</action>").observation.text)
    assert prompt.splitlines()[-1] == "Pick a-i: <action>a</action>"


def test_compact_memory_is_a_line_of_actions_with_titles_for_codes(shop_folder: Path) -> None:
    env = make(shop_folder, prompt="compact")
    env.reset()
    attempt = AttemptMemory(env)
    for action in ("search[cedar lamp of wood]", "click[b0desklamp]", "click[small]", "?"):
        attempt.add(env.step(f"<action>{action}</action>"))
    assert attempt.for_playing() == "Did: cedar lamp of; cedar desk lamp; small; invalid"


def test_suggested_searches_leave_out_options_and_price() -> None:
    asked = "Find me eco friendly, vegan cotton balls for sensitive skin"
    assert suggested_searches(f"{asked} with color: red, and size: 5, and price lower than 40.00 dollars") == (
        "eco friendly vegan cotton balls for sensitive skin",
        "eco friendly vegan cotton",
        "balls for sensitive skin",
    )
    assert suggested_searches("lamp") == ("lamp",)


def test_compact_prompts_stay_short(real_folder: Path) -> None:
    rng, longest = random.Random(0), 0
    for seed in range(60):
        env = make(real_folder, seed, prompt="compact", evaluation_goals=500)
        page = env.reset().text
        for _ in range(12):
            longest = max(longest, len(ask(env, page)))
            result = env.step(env.random_response(rng))
            page = env.reset().text if result.is_done else result.observation.text
    assert longest < 1200, "characters"


def test_compact_pages_list_every_option_that_is_asked_for_and_no_more_than_letters(real_folder: Path) -> None:
    for goal in load_split(real_folder, "small", "synthetic", 500, original=False).evaluation:
        style = WebshopCompactStyle()
        style.look(Scene(goal.text, Visit(Page.ITEM, product=goal.product)))
        actions = {line.action for line in style.lines}
        assert {click(value) for _, value in goal.options} <= actions, goal.text
        assert click("buy now") in actions
        assert len(style.lines) <= len(LETTERS)
