"""The lock game: an environment of another package whose hints say how many dials are right, not which."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamer.common.records import Task
from lamer.envs import registry
from tests.envs.installed import install

SOURCE = Path(__file__).with_name("lamer_lock.py").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The game installed under its entry point."""
    install(tmp_path, "lock = lamer_lock:FACTORY", "lamer_lock", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("lamer_lock", None)


def test_a_hint_tells_how_many_dials_are_right(site: Path) -> None:
    env = registry.make_env(Task("lock", registry.canonical_config("lock", {"tries": 9}), 3))
    env.reset()
    settings = [f"{one} {two}" for one in "123" for two in "123"]
    hints = {setting: env.step(f"<action>{setting}</action>").observation.text for setting in settings}
    assert sorted(hints.values()) == ["0 right"] * 4 + ["1 right"] * 4 + ["2 right"]


def test_the_prize_is_for_an_open_lock_and_no_setting_costs_the_try(site: Path) -> None:
    env = registry.make_env(Task("lock", registry.canonical_config("lock", {"dials": 1, "digits": 2}), 0))
    env.reset()
    results = [env.step(f"<action>{digit}</action>") for digit in "12"]
    assert sorted((each.reward, each.is_solved) for each in results) == [(0.0, False), (10.0, True)]
    env.reset()
    unset = env.step("no idea")
    assert (unset.action, unset.observation.text, unset.is_done) == (None, "no setting", False)
