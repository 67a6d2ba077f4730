"""What an environment returns, checked where it comes in, so that nothing later fails on it.

A value of another type that says the same is converted (numpy scalars, booleans and integers for numbers, subclasses of
`str`), text is made valid (`common.text`), and anything else is an `EnvironmentFault` that names field, value and type.

    checked_step, checked_observation, checked_text, checked_remark    what methods of an `Env` return
    checked_turns, checked_stop                                        its attributes
    closing_env                                                        an `Env` for as long as a block runs
"""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import reprlib
from collections.abc import Iterator
from typing import NoReturn, Protocol, SupportsFloat, TypeVar, runtime_checkable

from lamer.common.records import MAX_REWARD
from lamer.common.text import describe_error, valid_text
from lamer.envs.base import Env, EnvironmentFault, Observation, StepResult

log = logging.getLogger("lamer.env")

EnvT = TypeVar("EnvT", bound=Env)


def checked_step(value: object) -> StepResult:
    """What `step` or `play` returned.

    Raises:
        EnvironmentFault: it is no `StepResult`, or a field of it can't be used.
    """
    if not isinstance(value, StepResult):
        _refuse("what step returned", value, "a StepResult")
    action, score = value.action, value.score
    return StepResult(
        action=None if action is None else _text("StepResult.action", action, "text or None"),
        observation=checked_observation("StepResult.observation", value.observation),
        reward=_reward("StepResult.reward", value.reward),
        is_done=_truth("StepResult.is_done", value.is_done),
        is_solved=_truth("StepResult.is_solved", value.is_solved),
        score=None if score is None else _number("StepResult.score", score),
    )


def checked_observation(name: str, value: object) -> Observation:
    """What `reset` or `start` returned, or a step's observation; `name` says which.

    Raises:
        EnvironmentFault: it is no `Observation`, or a field of it is no text.
    """
    if not isinstance(value, Observation):
        _refuse(name, value, "an Observation")
    return Observation(
        checked_text("Observation.text", value.text), checked_text("Observation.anchor_state", value.anchor_state)
    )


def checked_text(name: str, value: object) -> str:
    """A prompt, a piece of memory or a scripted response; `name` says which.

    Raises:
        EnvironmentFault: it is no text.
    """
    return _text(name, value, "text")


def checked_remark(value: object) -> str | None:
    """What `parse_reflection` returned.

    Raises:
        EnvironmentFault: it is neither text nor None.
    """
    return None if value is None else _text("what parse_reflection returned", value, "text or None")


def checked_turns(value: object) -> int:
    """The `max_turns` of an environment.

    Raises:
        EnvironmentFault: it is no whole number from 1 on.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int) or plain < 1:
        _refuse("max_turns", value, "a whole number from 1 on")
    return plain


def checked_stop(name: str, value: object) -> tuple[str, ...]:
    """The `stop` or `reflection_stop` of an environment.

    Raises:
        EnvironmentFault: it is no sequence of texts, or one of them is empty.
    """
    if not isinstance(value, tuple | list) or not all(isinstance(each, str) and each for each in value):
        _refuse(name, value, "a tuple of texts that are not empty")
    return tuple(checked_text(name, each) for each in value)


@contextlib.contextmanager
def closing_env(env: EnvT) -> Iterator[EnvT]:
    """Close an environment at the end of a block. One that fails in `close` is logged: what was played is played."""
    try:
        yield env
    finally:
        try:
            env.close()
        except (Exception, SystemExit) as error:
            log.error("an environment raised in close: %s", describe_error(error), exc_info=error)


@runtime_checkable
class _Shaped(Protocol):
    """A scalar or array of numpy, or a tensor."""

    ndim: int

    def item(self) -> object:
        """Its one value as Python's own."""
        ...


def _plain(value: object) -> object:
    """The Python value inside a numpy scalar, or inside an array or tensor without dimensions."""
    if isinstance(value, str | int | float):  # nearly every value; to look for a protocol takes 50 times as long
        return value
    return value.item() if isinstance(value, _Shaped) and value.ndim == 0 else value


def _text(name: str, value: object, expected: str) -> str:
    plain = _plain(value)
    if not isinstance(plain, str):
        _refuse(name, value, expected)
    return valid_text(str.__str__(plain))


def _number(name: str, value: object) -> float:
    plain = _plain(value)
    if not isinstance(plain, SupportsFloat) or (isinstance(plain, _Shaped) and plain.ndim):
        _refuse(name, value, "a number")
    try:
        number = float(plain)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        _refuse(name, value, "a finite number")
    return number


def _reward(name: str, value: object) -> float:
    number = _number(name, value)
    if abs(number) > MAX_REWARD:
        _refuse(name, value, f"within plus and minus {MAX_REWARD:g}")
    return number


def _truth(name: str, value: object) -> bool:
    plain = _plain(value)
    if not isinstance(plain, numbers.Integral) or plain not in (0, 1):
        _refuse(name, value, "True or False")
    return bool(plain)


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    shown = valid_text(reprlib.repr(value))
    raise EnvironmentFault(f"{name} is {shown} ({type(value).__name__}), it must be {expected}")
