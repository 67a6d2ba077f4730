"""What an environment returns is converted, or refused by field, value and type."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from enum import StrEnum

import msgspec
import numpy as np
import pytest

from lamer.common.text import describe_error, valid_text
from lamer.envs.base import EnvironmentFault, Observation, StepResult
from lamer.envs.results import checked_observation, checked_remark, checked_step, checked_stop, checked_turns

GOOD = StepResult("up", Observation("text", "state"), 1.0, is_done=False, is_solved=False, score=0.5)


class Move(StrEnum):
    UP = "up"


def changed(field: str, value: object) -> StepResult:
    """A step's result with one field, of its observation perhaps, set to something of any type."""
    if field in ("text", "anchor_state"):
        return replace(GOOD, observation=replace(GOOD.observation, **{field: value}))
    return replace(GOOD, **{field: value})


def taken(field: str, value: object) -> object:
    """What comes of that field, sent and read as any record is."""
    result = checked_step(changed(field, value))
    found = getattr(result.observation if field in ("text", "anchor_state") else result, field)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found)) == found
    return found


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("score", np.float32(0.5), 0.5),
        ("score", np.array(0.25), 0.25),
        ("score", None, None),
        ("score", True, 1.0),
        ("reward", np.float64(2.5), 2.5),
        ("reward", np.int64(3), 3.0),
        ("reward", np.bool_(True), 1.0),
        ("reward", Decimal("0.5"), 0.5),
        ("reward", 10, 10.0),
        ("is_done", np.bool_(True), True),
        ("is_solved", np.array(False), False),
        ("is_solved", 1, True),
        ("action", None, None),
        ("action", np.str_("left"), "left"),
        ("action", Move.UP, "up"),
        ("action", "go \udcff", "go \ufffd"),
        ("text", "left \udcff", "left \ufffd"),
        ("text", np.str_("board"), "board"),
        ("anchor_state", "half \ud83d", "half \ufffd"),
        ("anchor_state", "both \ud83d\ude00", "both \U0001f600"),
    ],
)
def test_what_says_the_same_in_another_type_is_converted(field: str, value: object, expected: object) -> None:
    found = taken(field, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("action", 3, "int"),
        ("action", np.int64(3), "int64"),
        ("action", b"up", "bytes"),
        ("action", ["up"], "list"),
        ("text", b"board", "bytes"),
        ("text", None, "NoneType"),
        ("text", 7, "int"),
        ("anchor_state", np.zeros((2, 2)), "ndarray"),
        ("anchor_state", (1, 2), "tuple"),
        ("observation", "a board", "str"),
        ("reward", None, "NoneType"),
        ("reward", "1.0", "str"),
        ("reward", float("nan"), "float"),
        ("reward", np.array([1.0]), "ndarray"),
        ("reward", 1j, "complex"),
        ("reward", 10**400, "int"),
        ("is_done", None, "NoneType"),
        ("is_done", "no", "str"),
        ("is_done", 2, "int"),
        ("is_solved", 0.5, "float"),
        ("score", "good", "str"),
        ("score", float("inf"), "float"),
    ],
)
def test_anything_else_is_refused_by_field_and_type(field: str, value: object, kind: str) -> None:
    with pytest.raises(EnvironmentFault, match=rf"{field} is .*\({kind}\), it must be"):
        checked_step(changed(field, value))


def test_what_is_no_result_or_observation_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match=r"what step returned is .*\(tuple\), it must be a StepResult"):
        checked_step(("text", 1.0, True, {}))
    with pytest.raises(EnvironmentFault, match=r"what reset returned is 'text' \(str\), it must be an Observation"):
        checked_observation("what reset returned", "text")
    with pytest.raises(EnvironmentFault, match=r"what parse_reflection returned is 3 \(int\)"):
        checked_remark(3)


def test_attributes_that_can_not_be_used_are_refused() -> None:
    assert checked_turns(np.int64(4)) == 4
    assert checked_stop("stop", ["</a>"]) == ("</a>",)
    for turns in (0, 2.5, None, True):
        with pytest.raises(EnvironmentFault, match="max_turns is"):
            checked_turns(turns)
    for stop in ("</action>", ("",), (3,), None):
        with pytest.raises(EnvironmentFault, match=r"reflection_stop is .* a tuple of texts"):
            checked_stop("reflection_stop", stop)


def test_text_that_is_valid_is_the_very_same_and_a_lone_half_costs_one_character() -> None:
    text = "Türe 🚪 ✓"
    assert valid_text(text) is text
    assert valid_text("a\udcc3\udca9b\ud83d") == "a\ufffd\ufffdb\ufffd"
    assert describe_error(RuntimeError("can't read file \udcff.txt")) == "RuntimeError: can't read file \ufffd.txt"


@pytest.mark.parametrize(("reward", "is_taken"), [(1e6, True), (-1e6, True), (1e6 + 1, False), (-1e6 - 1, False)])
def test_a_reward_that_the_learner_would_refuse_is_a_fault_of_the_environment(reward: float, is_taken: bool) -> None:
    if is_taken:
        assert taken("reward", reward) == reward
    else:
        with pytest.raises(EnvironmentFault, match=r"StepResult.reward is .*1000001.0 .*within plus and minus 1e\+06"):
            checked_step(changed("reward", reward))
