"""The scripted environment: its distribution, its independence of the process, and how other processes find it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lamer.actors.rendering import Renderer
from lamer.deploy.bench.scripted import (
    PROMPT_WORDS,
    ScriptedConfig,
    ScriptedFactory,
    script_of,
    write_entry_point,
    write_model_folder,
)
from lamer.envs.base import PlayView


def test_episodes_take_the_designs_turns_and_succeed_with_045() -> None:
    scripts = [script_of(1, str(trial), 0) for trial in range(7000)]
    counts = Counter(script.turns for script in scripts)
    assert {turns: round(count / 1000) for turns, count in counts.items()} == {3: 1, 4: 1, 5: 1, 6: 1, 7: 3}
    assert sum(script.is_solved for script in scripts) / 7000 == pytest.approx(0.45, abs=0.02)


def test_an_episode_follows_its_script() -> None:
    for response in ("a", "b", "c"):
        env = ScriptedFactory().make(ScriptedConfig(), seed=3)
        env.reset()
        steps = [env.step(response)]
        while not steps[-1].is_done:
            steps.append(env.step("something else"))
        again = ScriptedFactory().make(ScriptedConfig(), seed=3)
        again.reset()
        assert [again.step(response) for _ in steps] == steps


def test_every_prompt_has_700_tokens_and_trials_part_after_their_first_response(tmp_path: Path) -> None:
    write_model_folder(tmp_path)
    renderer = Renderer.load(tmp_path, use_chat_template=True)
    prompts = []
    for response in ("a", "b"):
        env = ScriptedFactory().make(ScriptedConfig(), seed=3)
        env.reset()
        for turn in range(2):
            prompts.append(env.play_prompt(PlayView("w2", "w2", "", "", 0, turn)))
            env.step(response)
    assert all(len(renderer.render(prompt)) == PROMPT_WORDS for prompt in prompts)
    assert prompts[0] == prompts[2]
    assert prompts[1] != prompts[3]


def test_another_process_finds_it_through_the_entry_point(tmp_path: Path) -> None:
    write_entry_point(tmp_path)
    show = "print(registry.get('scripted').name, registry.canonical_config('scripted', {}))"
    command = [sys.executable, "-c", f"from lamer.envs import registry; {show}"]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["scripted", "{}"]
