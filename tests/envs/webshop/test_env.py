"""The WebShop environment: purchases and what they pay, tasks, missing data, scripted shoppers, speed and memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamer.common.errors import BadInput, Missing
from lamer.common.records import EVALUATION_SEED, Task
from lamer.envs import registry
from lamer.envs.base import PlayView
from lamer.envs.webshop.env import WebshopEnv
from lamer.envs.webshop.oracle import perfect_shopper, shop_once


def make(folder: Path, seed: int = 0, **options: object) -> WebshopEnv:
    """The environment of a task of the shop in `folder`."""
    config = registry.canonical_config("webshop", {"data": str(folder), **options})
    env = registry.make_env(Task("webshop", config, seed))
    assert isinstance(env, WebshopEnv)
    return env


def make_lamp(folder: Path, **options: object) -> WebshopEnv:
    """The task of buying the desk lamp in sky blue and small."""
    found = (make(folder, seed, split="evaluation", evaluation_goals=10, **options) for seed in range(10))
    wanted = (("color", "sky blue"), ("size", "small"))
    return next(env for env in found if env.goal.options == wanted)


def play(env: WebshopEnv, *actions: str) -> list[tuple[str | None, float, bool, bool, float | None]]:
    """What came of each action: as parsed, the reward, whether it is done, whether solved, the score."""
    results = [env.step(f"<action>{action}</action>") for action in actions]
    return [(each.action, each.reward, each.is_done, each.is_solved, each.score) for each in results]


TO_LAMP = ("search[cedar lamp]", "click[b0desklamp]")


def test_the_right_purchase_pays_ten(shop_folder: Path) -> None:
    env = make_lamp(shop_folder)
    env.reset()
    *before, bought = play(env, *TO_LAMP, "click[small]", "click[sky blue]", "click[buy now]")
    assert all((reward, done, solved, score) == (0.0, False, False, None) for _, reward, done, solved, score in before)
    assert bought == ("click[buy now]", 10.0, True, True, 1.0)


def test_another_purchase_pays_nothing_and_its_score_is_kept(shop_folder: Path) -> None:
    env = make_lamp(shop_folder)
    env.reset()
    # Two attributes, two options and the price are asked for; no option is chosen.
    assert play(env, *TO_LAMP, "click[buy now]")[-1] == ("click[buy now]", 0.0, True, False, pytest.approx(3 / 5))
    env.reset()
    # The rug's title shares no noun with the lamp's.
    assert play(env, "search[rug]", "click[b0bluerugs]", "click[buy now]")[-1][-1] == 0
    env.reset()
    # The floor lamp is easy to install, not dimmable, has no options, and may be too dear.
    bought = play(env, "search[pine]", "click[b0floorlmp]", "click[buy now]")[-1]
    assert env.visit.product is not None
    is_price_met = env.visit.product.price <= env.goal.price_cap
    assert bought[-1] == pytest.approx((1 + is_price_met) / 5)


def test_the_page_after_a_purchase_shows_the_score_only_where_that_is_configured(shop_folder: Path) -> None:
    for shows, said in ((False, ""), (True, " [SEP] 'Your score (from 0 to 1): 0.60'")):
        env = make_lamp(shop_folder, show_score=shows)
        env.reset()
        play(env, *TO_LAMP)
        text = env.step("<action>click[buy now]</action>").observation.text
        assert text == f"'Thank you for shopping with us!'{said}"


def test_with_the_reward_score_every_purchase_pays_its_share(shop_folder: Path) -> None:
    env = make_lamp(shop_folder, reward="score")
    env.reset()
    assert play(env, *TO_LAMP, "click[buy now]")[-1][1:4] == (pytest.approx(6.0), True, False)


@pytest.mark.parametrize("response", ["", "search[lamp]", "<action>click[buy now]</action>", "<action>lamp</action>"])
def test_what_cannot_be_done_here_is_no_action_and_changes_nothing(shop_folder: Path, response: str) -> None:
    env = make_lamp(shop_folder)
    first = env.reset()
    result = env.step(response)
    assert (result.action, result.observation, result.reward, result.is_done) == (None, first, 0.0, False)


def test_anchor_states_tell_chosen_options_apart_and_the_originals_do_not(shop_folder: Path) -> None:
    for original in (False, True):
        env = make_lamp(shop_folder, original=original)
        env.reset()
        play(env, *TO_LAMP)
        pages = [env.step(f"<action>click[{value}]</action>").observation for value in ("sky blue", "coal black")]
        assert pages[0].text == pages[1].text
        assert (pages[0].anchor_state == pages[1].anchor_state) == original


def test_a_reset_gives_the_same_task_again(shop_folder: Path) -> None:
    env = make_lamp(shop_folder)
    first, goal = env.reset(), env.goal
    played = play(env, *TO_LAMP, "click[small]")
    assert env.reset() == first
    assert env.goal is goal
    assert play(env, *TO_LAMP, "click[small]") == played
    assert env.visit.chosen == (("size", "small"),)


def test_evaluation_tasks_have_evaluation_goals_and_training_tasks_the_others_in_turn(shop_folder: Path) -> None:
    options = {"evaluation_goals": 3}
    evaluation = [make(shop_folder, EVALUATION_SEED + index, **options).goal.text for index in range(6)]
    training = [make(shop_folder, index, **options).goal.text for index in range(20)]
    assert evaluation[:3] == evaluation[3:]
    assert len(set(evaluation)) == 3
    assert not set(evaluation) & set(training)
    assert training[0] != training[1]
    assert [make(shop_folder, index, split="evaluation", **options).goal.text for index in range(3)] == evaluation[:3]
    assert make(shop_folder, EVALUATION_SEED, split="train", **options).goal.text in training


def test_goals_that_people_wrote_are_played_where_they_are_asked_for(shop_folder: Path) -> None:
    env = make(shop_folder, EVALUATION_SEED, goals="human")
    assert env.goal.text.startswith("i need a dimmable lamp in sky blue")
    assert shop_once(env, perfect_shopper, random.Random(0)) == 1
    with pytest.raises(BadInput, match=r"evaluation_goals = 500: of the 1 human goals .* none is left to train on"):
        make(shop_folder, 0, goals="human")


def test_a_perfect_shopper_reaches_every_goal_of_the_hand_made_shop(shop_folder: Path) -> None:
    for layout in ("full", "compact"):
        for seed in range(10):
            env = make(shop_folder, seed, split="evaluation", evaluation_goals=10, prompt=layout)
            assert shop_once(env, perfect_shopper, random.Random(0)) == 1, env.goal.text


def test_references_are_a_perfect_and_a_random_shopper(shop_folder: Path) -> None:
    config = registry.canonical_config(
        "webshop", {"data": str(shop_folder), "prompt": "compact", "evaluation_goals": 3}
    )
    perfect, wandering = registry.references("webshop", config, episodes=3)
    assert perfect.pass_at == (1.0, 1.0, 1.0)
    assert 0 < wandering.pass_at[0] < wandering.pass_at[2] < 1


def test_without_data_a_task_and_a_check_say_what_to_run(tmp_path: Path) -> None:
    lacking = r"webshop: .* lacks items_shuffle_1000.json, items_ins_v2_1000.json; run `lamer data fetch webshop`"
    with pytest.raises(Missing, match=lacking) as missing:
        make(tmp_path)
    assert missing.value.exit_code == 3
    factory = registry.get("webshop")
    with pytest.raises(Missing, match=lacking):
        factory.check_data(registry.decode_config("webshop", {"data": str(tmp_path)}))


def test_without_its_packages_the_extra_that_brings_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lamer.envs.webshop.factory", None)  # what an import that fails looks like
    with pytest.raises(Missing, match=r"can't be imported: .*pip install 'lamer\[webshop\]'"):
        registry.get("webshop")


def test_the_nouns_are_settled_when_the_configuration_is_read(shop_folder: Path) -> None:
    canonical = json.loads(registry.canonical_config("webshop", {"data": str(shop_folder)}))
    assert canonical["nouns"] in ("spacy", "rules")
    assert registry.canonical_config("webshop", canonical) == registry.canonical_config("webshop", {**canonical})


STATES = """
import json, sys
from lamer.common.records import Task
from lamer.envs import registry
tasks, config = json.load(sys.stdin)
for seed in tasks:
    env = registry.make_env(Task("webshop", config, seed))
    env.reset()
    results = env.step("<action>search[lamp]</action>"), env.step("<action>click[b0floorlmp]</action>")
    print(json.dumps([env.goal.text, *(result.observation.text for result in results)]))
"""


def test_tasks_are_equal_in_another_process_with_another_hash_seed(shop_folder: Path) -> None:
    config = registry.canonical_config("webshop", {"data": str(shop_folder), "evaluation_goals": 3})
    seeds = [*range(5), EVALUATION_SEED, EVALUATION_SEED + 1]

    def states(hash_seed: str) -> str:
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command, text = [sys.executable, "-c", STATES], json.dumps([seeds, config])
        return subprocess.run(command, env=environ, input=text, capture_output=True, text=True, check=True).stdout

    first = states("1")
    assert first == states("2")
    assert len(first.splitlines()) == len(seeds)


def test_a_perfect_shopper_reaches_300_real_goals_and_291_of_them_by_the_originals_rules(real_folder: Path) -> None:
    def reached(*, original: bool) -> int:
        envs = (make(real_folder, EVALUATION_SEED + index, original=original) for index in range(300))
        return sum(shop_once(env, perfect_shopper, random.Random(0)) == 1 for env in envs)

    assert reached(original=False) == 300
    assert reached(original=True) == 291


def test_a_core_makes_a_thousand_steps_a_second(real_folder: Path) -> None:
    rng = random.Random(0)
    envs = [make(real_folder, seed) for seed in range(20)]
    started, steps = time.process_time(), 0
    for env in envs:
        page = env.reset().text
        for turn in range(50):
            env.play_prompt(PlayView("", page, "", "", 0, turn))
            result = env.step(env.random_response(rng))
            page, steps = result.observation.text, steps + 1
            if result.is_done:
                page = env.reset().text
    assert steps / (time.process_time() - started) >= 1000


SESSIONS = """
import random, re, sys
from pathlib import Path
from lamer.common.records import Task
from lamer.envs import registry
config = registry.canonical_config("webshop", {"data": sys.argv[1]})
envs = [registry.make_env(Task("webshop", config, seed)) for seed in range(100)]
rng = random.Random(0)
for env in envs:
    env.reset()
    for _ in range(12):
        if env.step(env.random_response(rng)).is_done:
            env.reset()
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_a_hundred_sessions_of_a_process_share_one_shop(real_folder: Path) -> None:
    command = [sys.executable, "-c", SESSIONS, str(real_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 250, "MB"
