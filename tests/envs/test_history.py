"""Past steps and attempts as text, against the reference's own outputs."""

from __future__ import annotations

import json
from pathlib import Path

from lamer.envs import history
from lamer.envs.memory import MemoryStep, MemoryWindow, PastAttempt

REFERENCE_WINDOWS = {
    "sokoban": (MemoryWindow(7, 2), MemoryWindow(7, 7), MemoryWindow(7, 2)),
    "minesweeper": (MemoryWindow(7, 2), MemoryWindow(7, 7), MemoryWindow(7, 2)),
    "alfworld": (MemoryWindow(15, 15), MemoryWindow(15, 15), MemoryWindow(15, 15)),
}


def test_steps_are_shown_as_the_reference_shows_them(shared: Path) -> None:
    # WebShop's cases belong to that environment, which cuts its observations to so many fields. On purpose different
    # here: the reference records on after an attempt is done and takes its window before it drops those records, so
    # that they push real steps out; an attempt here ends with its last step. Cases with such records are left out.
    cases = json.loads((shared / "golden" / "memory_format.json").read_text())["cases"]
    compared = 0
    for case in cases:
        windows = REFERENCE_WINDOWS.get(case["inputs"]["env"])
        records = case["inputs"]["records"]
        ends = [index for index, record in enumerate(records) if record["dones"]]
        if windows is None or (ends and ends[0] + 1 < len(records)):
            continue
        steps = [MemoryStep(str(record["action"]), record["text_obs"]) for record in records]
        for key, window in zip(("play_current", "reflect_current", "past"), windows, strict=True):
            assert history.render_steps(steps, window) == case["expected"][key], f"{case['id']} {key}"
        compared += 1
    assert compared >= 8


def test_records_after_the_end_would_not_push_real_steps_out(shared: Path) -> None:
    # mem_alfworld_15: the attempt ended with its second step, and the reference shows only that one.
    cases = json.loads((shared / "golden" / "memory_format.json").read_text())["cases"]
    (case,) = [case for case in cases if case["id"] == "mem_alfworld_15"]
    assert case["expected"]["past"].startswith("Action 2: ")
    steps = [MemoryStep(record["action"], record["text_obs"]) for record in case["inputs"]["records"][:2]]
    ours = history.render_steps(steps, REFERENCE_WINDOWS["alfworld"][2])
    assert ours == f"Action 1: go to desk 1\nObservation 1: You see thing 0.\n{case['expected']['past']}"


def test_steps_left_out_by_the_window_keep_their_numbers() -> None:
    steps = [MemoryStep(f"a{number}", f"o{number}") for number in range(1, 6)]
    text = history.render_steps(steps, MemoryWindow(steps=2, observations=1))
    assert text == "Action 4: a4\nObservation 4: ...\nAction 5: a5\nObservation 5: o5"


def test_a_window_wider_than_the_attempt_shows_all_of_it() -> None:
    steps = [MemoryStep("a1", "o1"), MemoryStep("a2", "o2\no2")]
    text = history.render_steps(steps, MemoryWindow(steps=9, observations=9))
    assert text == "Action 1: a1\nObservation 1: o1\nAction 2: a2\nObservation 2:\no2\no2"


def test_no_steps_and_no_attempts_are_no_text() -> None:
    assert history.render_steps((), MemoryWindow(3, 3)) == ""
    assert history.render_past((), MemoryWindow(3, 3), history.render_steps) == ""


def test_past_attempts_show_what_memory_kept_of_each() -> None:
    window = MemoryWindow(steps=3, observations=3)
    steps = (MemoryStep("up", "board"),)
    attempts = [PastAttempt(0, steps, "go left"), PastAttempt(1, steps, ""), PastAttempt(2, (), "go right")]
    assert history.render_past(attempts, window, history.render_steps) == (
        "Attempt 1 failed.\nAction 1: up\nObservation 1: board\nReflection on attempt 1: go left\n\n"
        "Attempt 2 failed.\nAction 1: up\nObservation 1: board\n\n"
        "Attempt 3 failed.\nReflection on attempt 3: go right"
    )
