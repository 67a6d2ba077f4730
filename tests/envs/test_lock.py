"""The lock game: an environment of another package whose hints say how many dials are right, not which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.common.records import Task
from lamer.envs import registry
from lamer.envs.base import Env, PlayView
from lamer.envs.memory import MemoryStep
from tests.envs.installed import install

SOURCE = Path(__file__).with_name("lamer_lock.py").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The game installed under its entry point."""
    install(tmp_path, "lock = lamer_lock:FACTORY", "lamer_lock", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("lamer_lock", None)


def make(options: dict[str, object], seed: int) -> Env:
    return registry.make_env(Task("lock", registry.canonical_config("lock", options), seed))


def test_a_hint_tells_how_many_dials_are_right(site: Path) -> None:
    env = make({"positions": 3, "tries": 9}, 3)
    env.reset()
    settings = [letter + digit for letter in "abc" for digit in "123"]
    hints = [env.step(f"<action>{setting}</action>").observation.text for setting in settings]
    assert sorted(hints) == ["0 right"] * 4 + ["1 right"] * 4 + ["2 right"]


def test_the_prize_is_for_an_open_lock_and_no_setting_costs_the_try(site: Path) -> None:
    env = make({"tries": 4}, 0)
    env.reset()
    results = [env.step(f"<action>{setting}</action>") for setting in ("a1", "a2", "b1", "b2")]
    assert sorted((each.reward, each.is_solved) for each in results) == [(0.0, False)] * 3 + [(10.0, True)]
    env.reset()
    unset = env.step("no idea")
    assert (unset.action, unset.observation.text, unset.is_done) == (None, "no setting", False)


def test_a_prompt_ends_with_the_last_try_and_its_hint(site: Path) -> None:
    env = make({}, 0)
    tries = (MemoryStep("a1", "0 right"), MemoryStep("b1", "1 right"))
    lines = env.render_steps(tries, env.windows.playing)
    assert lines == "a1=0 right\nb1=1 right"
    prompt = env.play_prompt(PlayView("closed", "0 right", past="a2=1 right", current=lines, episode=1, turn=2))
    assert prompt.splitlines()[1:] == ["a2=1 right", "a1=0 right", "b1=1 right"]
